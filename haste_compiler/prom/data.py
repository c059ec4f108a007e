"""Labelled images, all in memory: an .npz file, a folder, or scikit-learn's digits."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.cli.images import list_images
from haste_compiler.demo.digits import held_out_digits, training_digits
from haste_compiler.errors import InputError, first_line
from haste_compiler.pictures import as_pixels, open_image

DIGITS = "digits"
"""The source that is no path."""

_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of CIFAR-10's training images, red, green and blue from 0 to 1: what colour images are normalised by."""

_AT_ONCE = 5000
"""Images that are resized together."""


@dataclass(frozen=True)
class Labelled:
    """Images and their classes.

    Attributes:
        pixels: uint8 (N, C, H, W).
        labels: int64 (N,).
        mirrored: a mirrored image is of the same class.
    """

    pixels: Tensor
    labels: Tensor
    mirrored: bool

    @property
    def side(self) -> int:
        """Height and width."""
        return int(self.pixels.shape[-1])

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.labels.max()) + 1

    def resized(self, side: int) -> Labelled:
        """The same of another height and width, by bilinear interpolation that averages."""
        if side == self.side:
            return self
        parts = [
            F.interpolate(part.float(), size=side, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
            for part in self.pixels.split(_AT_ONCE)
        ]
        return Labelled(torch.cat(parts), self.labels, self.mirrored)


def normalized(pixels: Tensor) -> Tensor:
    """Images as the network takes them: uint8 (N, C, H, W) to float32, channels last in memory."""
    colour = pixels.shape[1] == 3
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in ((_CIFAR_MEAN, _CIFAR_STD) if colour else ((0.5,), (0.5,))))
    return ((pixels.float() / 255 - mean) / std).to(memory_format=torch.channels_last)


def read_data(train: str, test: str | None, side: int) -> tuple[Labelled, Labelled]:
    """Read the images to train and to test on.

    Args:
        train: "digits"; an .npz file with ``labels`` and either ``images``, uint8 (N, H, W, C), or ``data`` and
            ``offsets``: image files one after the other, and where each starts and the last ends; or a folder with one
            folder of images a class.
        test: the same; None with "digits".
        side: height and width that a folder's images are scaled and cut to, in pixels.

    Raises:
        InputError: a source can't be read, or the two don't fit each other.
        HasteError: a package that reads it is missing.
    """
    if train == DIGITS:
        if test is not None:
            raise InputError(f"{DIGITS} has its own test images: leave out {test}")
        return _digits(training_digits()), _digits(held_out_digits())
    if test is None:
        raise InputError(f"{train} has no test images of its own: give a second source")
    read = [_read(Path(source), side) for source in (train, test)]
    shapes = [each.pixels.shape[1:] for each in read]
    if shapes[0] != shapes[1]:
        raise InputError(f"images of {train} are {_by(shapes[0])}, of {test} {_by(shapes[1])}: allowed are equal ones")
    if read[1].classes > read[0].classes:
        raise InputError(f"{test} has {read[1].classes} classes, {train} {read[0].classes}: allowed are no more")
    return read[0], read[1]


def _digits(data: tuple[Tensor, Tensor]) -> Labelled:
    images, labels = data
    return Labelled(((images + 1) * 127.5).round().byte(), labels, mirrored=False)


def _read(path: Path, side: int) -> Labelled:
    if path.suffix == ".npz":
        return _arrays(path)
    if not path.is_dir():
        raise InputError(f"{path}: allowed are an .npz file, a folder with one folder a class, and {DIGITS}")
    files, classes = list_images(path, None)
    if classes is None:
        raise InputError(f"{path} must hold one folder of images a class, but holds images")
    pixels = [as_pixels(open_image(file), (side, side), normalize=False) for file in files]
    return Labelled(torch.from_numpy(np.stack(pixels) * 255).round().byte(), torch.tensor(classes), mirrored=True)


def _arrays(path: Path) -> Labelled:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("images", "data", "offsets", "labels") if name in arrays}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{path} can't be read: {first_line(error)}") from None
    if "data" in found and "offsets" in found:
        found["images"] = _files(path, found["data"], found["offsets"])
    images, labels = found.get("images"), found.get("labels")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2]:
        kind = "none" if images is None else f"{images.dtype} {images.shape}"
        raise InputError(
            f"{path} must hold `images`, uint8 (N, H, W, C) with H = W, or `data` and `offsets`: it has {kind}"
        )
    if labels is None or labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise InputError(f"{path} must hold `labels`, {len(images)} integers")
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return Labelled(pixels, torch.from_numpy(labels.astype(np.int64)), mirrored=True)


def _files(path: Path, data: NDArray[Any], offsets: NDArray[Any]) -> NDArray[np.uint8]:
    """The images, uint8 (N, H, W, 3), of image files that lie one after the other."""
    everything = data.tobytes()
    images = [np.asarray(open_image(io.BytesIO(everything[start:end]))) for start, end in itertools.pairwise(offsets)]
    if len({image.shape for image in images}) != 1:
        raise InputError(f"{path} must hold images of one size")
    return np.stack(images)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
