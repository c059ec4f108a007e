"""Pictures: files and videos as Pillow's images, and these as networks take them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from haste_compiler.errors import HasteError, InputError, first_line

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's photographs, by which the networks of torchvision and most of timm are normalised."""


def open_image(file: Path | BinaryIO, name: str = "") -> Any:
    """A file as Pillow's image.

    Args:
        file: where it lies, or what is read.
        name: what errors call it; "": where it lies.

    Raises:
        InputError: it can't be read.
        HasteError: there is no Pillow.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise HasteError("images need Pillow: `pip install pillow`") from None
    try:
        with Image.open(file) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{name or file} can't be read: {first_line(error)}") from None


def as_pixels(image: Any, size: tuple[int, int], *, zoom: float = 1, normalize: bool = True) -> NDArray[Any]:
    """Pillow's image, red, green and blue, as networks take it: float32 (3, H, W).

    Args:
        image: of any size.
        size: height and width that it is scaled to, and its middle cut to.
        zoom: how much larger than need be it is scaled.
        normalize: as torchvision's networks want it; else values are from 0 to 1.
    """
    from PIL import Image

    height, width = size
    scale = max(height / image.height, width / image.width) * zoom
    across, down = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (across - width) // 2, (down - height) // 2
    cut = image.resize((across, down), Image.Resampling.BILINEAR).crop((left, top, left + width, top + height))
    values: NDArray[np.float32] = np.asarray(cut, np.float32) / np.float32(255)
    if normalize:
        values = normalized(values)
    return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)


def normalized(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values from 0 to 1, float32 (…, 3), as torchvision's networks want them."""
    mean: NDArray[np.float32] = np.array(_MEAN, np.float32)
    std: NDArray[np.float32] = np.array(_STD, np.float32)
    return (values - mean) / std


def decoded(file: str | BinaryIO, kind: str | None, name: str = "") -> Iterator[Any]:
    """The pictures of a video, as Pillow's images.

    Args:
        file: where it lies, or what is read.
        kind: what a device is read as; None: as the file says of itself.
        name: what errors call it; "": where it lies.

    Raises:
        InputError: it can't be read, or holds no video.
        HasteError: there is no PyAV.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise HasteError('a video needs PyAV: `pip install "haste-compiler[video]"`') from None
    try:
        with av.open(file, format=kind) as container:
            if not container.streams.video:
                raise InputError(f"{name or file} holds no video")
            for frame in container.decode(video=0):
                yield frame.to_image()
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"{name or file} can't be read: {first_line(error)}") from None
