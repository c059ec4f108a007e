"""What the network is shown: an image, or the frames of a video."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from haste_compiler.cost.images import dead_leaves
from haste_compiler.errors import InputError
from haste_compiler.pictures import as_pixels, decoded, normalized, open_image

MOST_BYTES = 64 << 20
"""Of a file that is opened."""

MOST_FRAMES = 300
"""Of a video."""

_MOST_VALUES = 64 << 20
"""Of all frames together: a quarter of a gigabyte."""

_MADE_UP_FRAMES = 24


@dataclass(frozen=True)
class Scene:
    """One image or more.

    Attributes:
        name: what it is called.
        frames: as the network takes them, float32 (T, C, H, W).
        shown: as one sees them, uint8 (T, H, W, 3).
    """

    name: str
    frames: Tensor
    shown: NDArray[np.uint8]

    @property
    def is_video(self) -> bool:
        """Whether there is more than one frame."""
        return len(self.frames) > 1

    def frame(self, number: int) -> Tensor:
        """One of them as a call's input, (1, C, H, W)."""
        return self.frames[number : number + 1]


def most_frames(shape: Sequence[int]) -> int:
    """How many frames of a shape (N, C, H, W) are kept at once."""
    return max(1, min(MOST_FRAMES, _MOST_VALUES // int(np.prod(shape[1:]))))


def read_scene(name: str, data: bytes, shape: Sequence[int], normalize: bool = True) -> Scene:
    """Read the content of an image's or a video's file, scaled, and its middle cut to the network's size.

    Args:
        name: of the file.
        data: its content.
        shape: (1, C, H, W) of what the network takes, C 1 or 3.
        normalize: as torchvision's networks want it, a grey one from -1 to 1; else values are from 0 to 1.

    Raises:
        InputError: it is neither, is too large or has too many frames; or the network takes no pictures.
        HasteError: there is no Pillow, or no PyAV for a video.
    """
    if shape[1] not in (1, 3):
        raise InputError(f"{name} holds pictures of 3 channels, and the network takes {shape[1]}")
    if len(data) > MOST_BYTES:
        raise InputError(f"{name} has {len(data) / 1e6:.0f} MB: allowed are {MOST_BYTES / 1e6:.0f}")
    try:
        return from_images(name, [open_image(io.BytesIO(data), name)], shape, normalize)
    except InputError:
        pass
    try:
        return from_images(name, decoded(io.BytesIO(data), None, name), shape, normalize)
    except InputError as error:
        if "frames" in str(error):
            raise
        raise InputError(f"{name} is neither an image nor a video that can be read") from None


def from_images(name: str, images: Iterable[Any], shape: Sequence[int], normalize: bool) -> Scene:
    """A scene of Pillow's images; arguments as of ``read_scene``.

    Raises:
        InputError: there are none, or too many.
    """
    values: list[NDArray[np.float32]] = []
    for image in images:
        if len(values) == most_frames(shape):
            size = "x".join(map(str, shape[2:]))
            raise InputError(f"{name} has too many frames: allowed are {most_frames(shape)} of {size}; cut it shorter")
        values.append(as_pixels(image, (shape[2], shape[3]), normalize=False).transpose(1, 2, 0))
    if not values:
        raise InputError(f"{name} has no frames")
    seen = np.stack(values)
    if shape[1] == 1:
        grey = seen.mean(axis=3, keepdims=True, dtype=np.float32)
        taken, seen = 2 * grey - 1 if normalize else grey, np.repeat(grey, 3, axis=3)
    else:
        taken = normalized(seen) if normalize else seen
    frames = np.ascontiguousarray(taken.transpose(0, 3, 1, 2), np.float32)
    return Scene(name, torch.from_numpy(frames), np.round(seen * 255).astype(np.uint8))


def as_taken(name: str, frames: Tensor) -> Scene:
    """A scene of images that are as the network takes them, float32 (T, C, H, W); shown from the least to the largest
    value, by three of their channels or the first."""
    seen = frames[:, :3] if frames.shape[1] >= 3 else frames[:, :1].expand(-1, 3, -1, -1)
    low, high = seen.min(), seen.max()
    bright = (seen - low) / (high - low).clamp(min=1e-12) * 255
    return Scene(name, frames, bright.round().byte().permute(0, 2, 3, 1).numpy())


def made_up(shape: Sequence[int]) -> list[Scene]:
    """An image with the statistics of photographs, and a video in which a part of it moves."""
    still = dead_leaves((2, *shape[1:]), 0)
    height, width = shape[2:]
    side = (max(1, height // 5), max(1, width // 5))
    frames = still[:1].repeat(_MADE_UP_FRAMES, 1, 1, 1)
    for number, frame in enumerate(frames):
        left = (width - side[1]) * number // _MADE_UP_FRAMES
        place = (slice(None), slice(height // 2, height // 2 + side[0]), slice(left, left + side[1]))
        frame[place] = still[1][place]
    return [as_taken("made-up image", still[:1]), as_taken("made-up video", frames)]
