"""Turn a compiled network's tolerance between two calls: less work or smaller errors, with nothing compiled again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import haste_compiler
from examples.networks import network_and_images
from haste_compiler import HasteConfig


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what is saved, and the error, for some tolerances."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="of torchvision, such as resnet18; else the carried network")
    parser.add_argument("--tolerances", nargs="+", type=float, default=[0.0, 0.2, 0.4, 0.8])
    options = parser.parse_args(arguments)
    model, images = network_and_images(options.model, 8)
    compiled = haste_compiler.compile(model, (images,), threads=1, config=HasteConfig(cost_model=False))
    for tolerance in options.tolerances:
        compiled.tolerance = tolerance
        report = haste_compiler.validate(model, compiled, images, time=False)
        print(f"tolerance {tolerance:g}: {report.mac_reduction:.1%} saved, error {report.max_rel_error:.2e}")


if __name__ == "__main__":
    main()
