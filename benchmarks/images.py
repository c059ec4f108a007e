"""Images that networks are timed, checked and calibrated on: photographs, training images, made-up ones."""

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.cost.images import dead_leaves
from tests import vision, zoo

PHOTOGRAPHS = 500

_SMALLEST_IMAGE = 16
_CLASSES_BETWEEN = 30

Indices = NDArray[np.int64]


@functools.cache
def _photographs_of_imagenet() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        pixels, labels = vision.real_networks().imagenet_photos()
    except ModuleNotFoundError as error:
        raise vision.AbsentError(f"the photographs need {error.name}, which is not installed") from None
    return pixels, labels


def photographs(which: Indices, network: str, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Photographs of ImageNet, one a class.

    Args:
        which: of the 500.
        network: "efflite0", "srvgg" or "ocrdet", which takes them.
        size: height and width; they are stretched where it isn't theirs, 224×224.

    Returns:
        Inputs (N, 3, height, width), float32, and labels (N,), int64.

    Raises:
        vision.AbsentError: they are not there.
    """
    pixels, labels = _photographs_of_imagenet()
    x: Tensor = vision.real_networks().prepare(network, pixels[which])
    if x.shape[2:] != size:
        x = F.interpolate(x, size=size, mode="bilinear")
    return x.contiguous(), torch.from_numpy(labels[which])


def photographs_beside(count: int) -> Tensor:
    """Photographs (count, 3, 224, 224) as the trained ResNet-18 takes them, of other classes than ``zoo.photographs``.

    Raises:
        vision.AbsentError: they are not there.
    """
    pixels, labels = _photographs_of_imagenet()
    module = zoo.trained_module()
    assert module is not None
    x: Tensor = module.normalize(pixels[labels % _CLASSES_BETWEEN != 0][:count], "resnet18")
    return x


def training_images(count: int) -> Tensor:
    """Images (count, 3, 32, 32) that the trained ResNet-18 was trained on, spread over the classes."""
    module = zoo.trained_module()
    assert module is not None
    pixels, _ = module.cifar10_train()
    # The file is sorted by class: a stride that shares no factor with 50,000 visits all of them.
    x: Tensor = module.normalize(pixels[np.arange(count) * 3457 % len(pixels)], "resnet18")
    return x


def made_up(shape: tuple[int, ...], seed: int) -> Tensor:
    """Images (N, C, H, W) like photographs, some the mirror images of others; noise where that is no image's shape."""
    if len(shape) != 4 or min(shape[2:]) < _SMALLEST_IMAGE:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    # Drawing one takes as long as a small network takes for it.
    drawn = dead_leaves((math.ceil(shape[0] / 4), *shape[1:]), seed)
    return torch.cat((drawn, drawn.flip(3), drawn.flip(2), drawn.flip(2, 3)))[: shape[0]].contiguous()
