"""Compile a network in three ways, compare them with the original, and save the one that you want.

`python -m examples.compress_torchvision --model resnet18 --save int8` does it for torchvision's ResNet-18.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import haste_compiler
from examples.networks import network_and_images
from haste_compiler import HasteConfig

WAYS = {
    "dense": {"config": HasteConfig(enabled=False)},
    "int8": {"precision": "int8"},
    "haste": {"config": HasteConfig(cost_model=False)},
}
"""Nothing merged; integers of 8 bits; HASTE in every layer that can, faster or not."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print how each differs from the original, and how fast it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="of torchvision, such as resnet18; else the carried network")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--save", choices=WAYS, help="write WAY.haste")
    options = parser.parse_args(arguments)
    model, images = network_and_images(options.model, options.images)
    for way in options.ways:
        compiled = haste_compiler.compile(model, (images[:8],), threads=1, **WAYS[way])  # type: ignore[arg-type]
        report = haste_compiler.validate(model, compiled, list(images.split(8)))
        print(
            f"{way:6} same class {report.agreement:.1%}, output error {report.max_rel_error:.1e}, "
            f"multiply-adds saved {report.mac_reduction:.0%}, {report.speedup:.2f} times as fast as dense"
        )
        if way == options.save:
            compiled.save(f"{way}.haste")


if __name__ == "__main__":
    main()
