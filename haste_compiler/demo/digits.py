"""Scikit-learn's handwritten digits as images for the carried network, split into two parts."""

import torch
from torch import Tensor
from torch.nn import functional as F

IMAGE_SIZE = 32
"""Height and width, in pixels, that the 8 × 8 digits are enlarged to."""

HELD_OUT_EVERY = 5
"""Of every so many images in the data set's own order, the first is held out of training."""


def training_digits() -> tuple[Tensor, Tensor]:
    """Return the images that the carried network is trained on: (1437, 1, 32, 32) float32, and their labels."""
    images, labels, held_out = _load()
    return images[~held_out], labels[~held_out]


def held_out_digits() -> tuple[Tensor, Tensor]:
    """Return the images that training never sees: (360, 1, 32, 32) float32, and their labels (360,) int64."""
    images, labels, held_out = _load()
    return images[held_out], labels[held_out]


def _load() -> tuple[Tensor, Tensor, Tensor]:
    """Return all images (N, 1, 32, 32) scaled to [-1, 1], labels (N,), and which are held out (N,) bool.

    Raises ModuleNotFoundError where scikit-learn, which carries the data, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the digits come with scikit-learn: install it with `pip install haste-compiler[demo]`", name=error.name
        ) from error

    pixels, labels = load_digits(return_X_y=True)  # values 0 to 16
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 8 - 1
    images = F.interpolate(images, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False)
    held_out = torch.arange(len(images)) % HELD_OUT_EVERY == 0
    return images, torch.from_numpy(labels).long(), held_out
