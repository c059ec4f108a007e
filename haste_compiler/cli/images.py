"""Images on the command line: a folder, an .npz file, or made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from haste_compiler.errors import InputError, first_line
from haste_compiler.pictures import as_pixels, open_image

if TYPE_CHECKING:
    from torch import Tensor

_MADE_UP = "random"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True)
class Images:
    """Images as the network takes them, read when they are needed.

    Attributes:
        count: how many, N.
        labels: int64 (N,), or None.
        read: images from one place up to another, float32 (n, C, H, W).
    """

    count: int
    labels: Tensor | None
    read: Callable[[int, int], Tensor]

    @property
    def pixels(self) -> Tensor:
        """All of them at once, float32 (N, C, H, W)."""
        return self.read(0, self.count)

    def batches(self, size: int) -> Iterator[Tensor]:
        """Calls of ``size`` images; the last one may have fewer, and is then compiled by itself."""
        return (self.read(start, min(start + size, self.count)) for start in range(0, self.count, size))

    def share(self, size: int, rank: int, processes: int) -> Iterator[tuple[Tensor, ...]]:
        """Of the calls of ``size`` images every so many-th, one process's share: images, then labels if there are any.

        Args:
            size: images of a call.
            rank: the first call; 0 to ``processes`` - 1.
            processes: that share the calls among them.
        """
        for start in range(rank * size, self.count, size * processes):
            end = min(start + size, self.count)
            pixels = self.read(start, end)
            yield (pixels,) if self.labels is None else (pixels, self.labels[start:end])


@dataclass(frozen=True)
class ImageSource:
    """Where images come from, as the command line says.

    Attributes:
        images: the source, see ``read_images``.
        limit: most images.
    """

    images: str
    limit: int

    @property
    def made_up(self) -> bool:
        """Whether they are drawn, not read."""
        return self.images == _MADE_UP

    def read(self, shape: tuple[int, ...], most: int | None = None, labels: Path | None = None) -> Images:
        """Read or make them; raises what ``read_images`` raises.

        Args:
            shape: (N, C, H, W) of one call.
            most: no more than so many, whatever the limit.
            labels: see ``read_images``.
        """
        return read_images(self.images, shape, self.limit if most is None else min(self.limit, most), labels)


def read_images(source: str, shape: tuple[int, ...], limit: int, labels: Path | None = None) -> Images:
    """Read or make images.

    Args:
        source: "random"; an .npz file with ``images``, float32 (N, C, H, W) as the network takes them, and maybe
            ``labels``; or a folder of images, or of one folder a class, which are scaled, cut and normalised as
            torchvision's networks want it, each when it is needed.
        shape: (N, C, H, W) of one call.
        limit: most images.
        labels: of a folder's images: a text file with a line for each, its name and its class's number.

    Raises:
        InputError: there are none, or they have another size, or the labels don't fit them.
    """
    if len(shape) != 4:
        raise InputError(f"images need a network that takes (N, C, H, W), not {'x'.join(map(str, shape))}")
    path = Path(source)
    if labels is not None and not path.is_dir():
        raise InputError(f"--labels is for a folder of images, not {source}")
    if source == _MADE_UP:
        from haste_compiler.cost.images import dead_leaves

        return _in_memory(dead_leaves((limit, *shape[1:]), 0), None)
    if path.suffix == ".npz":
        return _arrays(path, limit, shape)
    if not path.is_dir():
        raise InputError(f"--images {source}: allowed are a folder, an .npz file and random")
    if shape[1] != 3:
        raise InputError(f"{source} holds images of 3 channels, the network takes {shape[1]}: give an .npz file")
    return _folder(path, limit, (shape[2], shape[3]), labels)


def _in_memory(pixels: Tensor, labels: Tensor | None) -> Images:
    return Images(len(pixels), labels, lambda start, end: pixels[start:end])


def _arrays(path: Path, limit: int, shape: tuple[int, ...]) -> Images:
    import torch

    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name][:limit] for name in ("images", "labels") if name in arrays}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{path} can't be read: {first_line(error)}") from None
    pixels = found.get("images")
    if pixels is None or pixels.dtype != np.float32 or not len(pixels):
        kind = "none" if pixels is None or not len(pixels) else str(pixels.dtype)
        raise InputError(f"{path} must hold `images`, float32 (N, C, H, W) as the network takes them, but holds {kind}")
    if pixels.ndim != 4 or pixels.shape[1:] != shape[1:]:
        one = "x".join(map(str, shape[1:]))
        raise InputError(f"{path} holds images of {'x'.join(map(str, pixels.shape[1:]))}, the network takes {one}")
    labels = found.get("labels")
    if labels is not None and (labels.shape != (len(pixels),) or labels.dtype.kind not in "iu"):
        raise InputError(f"{path}: labels must be {len(pixels)} integers, not {labels.dtype} of shape {labels.shape}")
    return _in_memory(torch.from_numpy(pixels), None if labels is None else torch.from_numpy(labels.astype(np.int64)))


def list_images(folder: Path, limit: int | None) -> tuple[list[Path], list[int] | None]:
    """The image files of a folder, and the number of each one's class.

    Args:
        folder: holds one folder a class, numbered by their names' order; or images, which then have no class: None.
        limit: most images; None: all. Classes take turns, so that a limit leaves some of each.

    Raises:
        InputError: there is no such folder, or no image in it.
    """
    classes = sorted(path for path in folder.glob("*") if path.is_dir())
    files = [
        sorted(path for path in place.glob("*") if path.suffix.lower() in _SUFFIXES) for place in classes or [folder]
    ]
    deepest = max(map(len, files))
    turns = [(paths[i], number) for i in range(deepest) for number, paths in enumerate(files) if i < len(paths)][:limit]
    if not turns:
        raise InputError(f"{folder} holds no images ({', '.join(sorted(_SUFFIXES))})")
    return [path for path, _ in turns], [number for _, number in turns] if classes else None


def _folder(folder: Path, limit: int, size: tuple[int, int], labels: Path | None) -> Images:
    import torch

    files, classes = list_images(folder, limit)
    if labels is not None:
        classes = _read_labels(labels, folder, files)

    def read(start: int, end: int) -> Tensor:
        return torch.from_numpy(np.stack([_picture(path, size) for path in files[start:end]]))

    return Images(len(files), None if classes is None else torch.tensor(classes), read)


def _read_labels(path: Path, folder: Path, files: Sequence[Path]) -> list[int]:
    """The class of every image, from lines such as "cat.jpg 281" or "cats/cat.jpg,281"."""
    known: dict[str, int] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = line.strip().replace(",", " ").rpartition(" ")
        if not name or not label.isdecimal():
            raise InputError(f"{path}, line {number}: {line!r} is not an image's name and its class's number")
        known[name.strip()] = int(label)
    names = [file.relative_to(folder).as_posix() for file in files]
    missing = [name for name in names if name not in known]
    if missing:
        raise InputError(f"{path} has no label for {len(missing)} of {len(names)} images, such as {missing[0]}")
    return [known[name] for name in names]


def _picture(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    """One image, float32 (3, H, W): scaled until its shorter side is 8/7 of what is needed, then cut."""
    return as_pixels(open_image(path), size, zoom=8 / 7 if min(size) >= 64 else 1)
