"""Search settings for every layer that save the most multiply-adds and keep the class of nearly all images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import haste_compiler
from examples.networks import network_and_images


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was measured, and write the configuration that was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="of torchvision, such as resnet18; else the carried network")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--min-agreement", type=float, default=0.95)
    parser.add_argument("--output", type=Path, default=Path("best.json"), help=".json or .yaml")
    options = parser.parse_args(arguments)
    model, images = network_and_images(options.model, options.images)
    result = haste_compiler.search(
        model, images, min_agreement=options.min_agreement, patches=(4,), threads=1, progress=False
    )
    print(result)
    result.config.save(options.output)
    print(f"{options.output}: haste compile MODEL --config {options.output}, or HasteConfig.load in Python")


if __name__ == "__main__":
    main()
