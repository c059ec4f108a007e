"""VIDEO on the command line: frames from a file, a folder of images or a camera."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haste_compiler.cli.images import list_images
from haste_compiler.errors import InputError
from haste_compiler.pictures import as_pixels, decoded, open_image

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class VideoSource:
    """Where frames come from, as the command line says.

    Attributes:
        video: a video file; a folder of images, in the order of their names; or a camera's number.
        limit: most frames; None: all.
        normalize: as torchvision's networks want it; else pixels are from 0 to 1.
    """

    video: str
    limit: int | None
    normalize: bool

    @property
    def is_camera(self) -> bool:
        """Whether there is no last frame."""
        return self.video.isdecimal()

    def count(self) -> int | None:
        """How many frames there are; None: nobody knows before they are read."""
        path = Path(self.video)
        if not path.is_dir():
            return self.limit
        return len(list_images(path, self.limit)[0])

    def frames(self, size: tuple[int, int]) -> Iterator[Tensor]:
        """Frames as the network takes them, float32 (1, 3, H, W), scaled and cut to a size (H, W).

        Raises:
            InputError: there is no such video, or a frame can't be read.
            HasteError: a package that reads it is missing.
        """
        import torch

        for image in islice(self.images(), self.limit):
            yield torch.from_numpy(as_pixels(image, size, normalize=self.normalize))[None]

    def images(self) -> Iterator[Any]:
        """The same as Pillow's images, however many there are; raises what ``frames`` raises."""
        path = Path(self.video)
        if path.is_dir():
            return map(open_image, list_images(path, self.limit)[0])
        if self.is_camera:
            return decoded(f"/dev/video{self.video}", "v4l2")
        if not path.is_file():
            raise InputError(
                f"there is no video {self.video}: allowed are a video file, a folder of images and a camera's number"
            )
        return decoded(self.video, None)
