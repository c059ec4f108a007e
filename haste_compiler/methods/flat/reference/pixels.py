"""Which pixels of an image hold the same values: the definition in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from haste_compiler.methods.flat.labels import LEAST_EVEN, MOST_VALUES, UNKNOWN


def label_image(x: Tensor) -> Tensor:
    """The labels (H, W), int32, of an image (C, H, W): the number of the first pixel with the same bits.

    Of values that come after ``MOST_VALUES`` others, pixels are alike that lie side by side.
    Where fewer than ``LEAST_EVEN`` of the pixels are as their left neighbours, nothing is known.
    """
    _, height, width = x.shape
    bits = x.detach().cpu().contiguous().view(torch.int32)
    even = int((bits[:, :, 1:] == bits[:, :, :-1]).all(0).sum())
    least, of = LEAST_EVEN
    if even * of < height * width * least:
        return torch.full((height, width), UNKNOWN, dtype=torch.int32)
    first: dict[tuple[int, ...], int] = {}
    pixels = [tuple(pixel) for pixel in bits.flatten(1).T.tolist()]
    labels: list[int] = []
    for number, pixel in enumerate(pixels):
        if len(first) < MOST_VALUES:
            first.setdefault(pixel, number)
        labels.append(first.get(pixel, labels[-1] if number and pixel == pixels[number - 1] else number))
    return torch.tensor(labels, dtype=torch.int32).view(height, width)
