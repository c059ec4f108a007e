"""Run a network on the frames of a fixed camera: what changed is computed, the rest is kept.

The scene is made up: noise that stands still, and a square that moves. `haste stream` reads videos and cameras.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

import haste_compiler
from examples.networks import network_and_images


def frames(like: Tensor, count: int) -> Iterator[Tensor]:
    """Frames of the shape of ``like`` (1, C, H, W): that image, and over it a square that moves by a pixel a frame."""
    side = like.shape[2] // 4
    for number in range(count):
        frame = like.clone()
        frame[:, :, side : 2 * side, number : number + side] = 1.0
        yield frame


def main(arguments: Sequence[str] | None = None) -> None:
    """Print for each frame what was computed of it, and the error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="of torchvision, such as resnet18; else the carried network")
    parser.add_argument("--tolerance", type=float, default=0.1)
    parser.add_argument("--frames", type=int, default=6)
    options = parser.parse_args(arguments)
    model, images = network_and_images(options.model, 1)
    run(model, list(frames(images, options.frames)), options.tolerance)


def run(model: nn.Module, video: Sequence[Tensor], tolerance: float) -> None:
    """Hold a stream's outputs against the model's."""
    compiled = haste_compiler.compile(model, (video[0],), threads=1)
    stream = compiled.stream(tolerance=tolerance)
    with torch.inference_mode():
        for number, frame in enumerate(video):
            y, expected = stream(frame), model(frame)
            error = float((y - expected).norm() / expected.norm())
            print(f"frame {number}: {stream.stats().last_work:.0%} of the work, error {error:.1e}")


if __name__ == "__main__":
    main()
