"""Images on the command line: a folder, an .npz file, or made up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from haste_compiler.errors import HasteError, InputError, first_line

if TYPE_CHECKING:
    from torch import Tensor

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's photographs, by which the networks of torchvision and most of timm are normalised."""


@dataclass(frozen=True)
class Images:
    """Images as the network takes them.

    Attributes:
        pixels: float32 (N, C, H, W).
        labels: int64 (N,), or None.
    """

    pixels: Tensor
    labels: Tensor | None = None

    def batches(self, size: int) -> list[Tensor]:
        """Calls of ``size`` images; the last one may have fewer, and is then compiled by itself."""
        return list(self.pixels.split(size))


def read_images(source: str, shape: tuple[int, ...], limit: int) -> Images:
    """Read or make images.

    Args:
        source: "random"; an .npz file with ``images``, float32 (N, C, H, W) as the network takes them, and maybe
            ``labels``; or a folder of images, or of one folder a class, which are scaled, cut and normalised as
            torchvision's networks want it.
        shape: (N, C, H, W) of one call.
        limit: most images.

    Raises:
        InputError: there are none, or they have another size.
    """
    if len(shape) != 4:
        raise InputError(f"images need a network that takes (N, C, H, W), not {'x'.join(map(str, shape))}")
    if source == "random":
        from haste_compiler.cost.images import dead_leaves

        return Images(dead_leaves((limit, *shape[1:]), 0))
    path = Path(source)
    if path.suffix == ".npz":
        return _checked(_arrays(path, limit), source, shape)
    if not path.is_dir():
        raise InputError(f"--images {source}: allowed are a folder, an .npz file and random")
    return _checked(_folder(path, limit, (shape[2], shape[3])), source, shape)


def _checked(images: Images, source: str, shape: tuple[int, ...]) -> Images:
    found = tuple(images.pixels.shape)
    if len(found) != 4 or found[1:] != shape[1:]:
        one = "x".join(map(str, shape[1:]))
        raise InputError(f"{source} holds images of {'x'.join(map(str, found[1:]))}, the network takes {one}")
    return images


def _arrays(path: Path, limit: int) -> Images:
    import torch

    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name][:limit] for name in ("images", "labels") if name in arrays}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read: {first_line(error)}") from None
    pixels = found.get("images")
    if pixels is None or pixels.dtype != np.float32 or not len(pixels):
        kind = "none" if pixels is None or not len(pixels) else str(pixels.dtype)
        raise InputError(f"{path} must hold `images`, float32 (N, C, H, W) as the network takes them, but holds {kind}")
    labels = found.get("labels")
    return Images(torch.from_numpy(pixels), None if labels is None else torch.from_numpy(labels.astype(np.int64)))


def list_images(folder: Path, limit: int) -> tuple[list[Path], list[int] | None]:
    """The image files of a folder, and the number of each one's class.

    Args:
        folder: holds one folder a class, numbered by their names' order; or images, which then have no class: None.
        limit: most images. Classes take turns, so that a limit leaves some of each.

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


def _folder(folder: Path, limit: int, size: tuple[int, int]) -> Images:
    import torch

    files, classes = list_images(folder, limit)
    pixels = torch.from_numpy(np.stack([_picture(path, size) for path in files]))
    return Images(pixels, None if classes is None else torch.tensor(classes))


def _picture(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    """One image, float32 (3, H, W): scaled until its shorter side is 8/7 of what is needed, then cut."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise HasteError("a folder of images needs Pillow: `pip install pillow`") from None
    height, width = size
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except OSError as error:
        raise InputError(f"{path} can't be read: {error}") from None
    scale = max(height / image.height, width / image.width) * (8 / 7 if min(size) >= 64 else 1)
    across, down = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (across - width) // 2, (down - height) // 2
    cut = image.resize((across, down), Image.Resampling.BILINEAR).crop((left, top, left + width, top + height))
    values = (np.asarray(cut, np.float32) / 255 - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)
