"""What is measured: networks and single convolutions, each with the inputs that it runs on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests import zoo


class AbsentError(Exception):
    """Something that a measurement needs is not on this machine; the message says what."""


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        model: in evaluation mode.
        inputs: of batch 1, each (1, C, H, W) and of the same shape; every measurement runs over all of them.
        ours: this compiler's runners that are measured; random weights hold nothing that is worth merging.
        calls: how often each input is run in one measurement; more for what takes microseconds.
    """

    model: nn.Module
    inputs: list[Tensor]
    ours: tuple[str, ...] = ("dense", "haste")
    calls: int = 1


def _random_network(name: str) -> Case:
    reason = zoo.missing_torchvision()
    if reason:
        raise AbsentError(reason)
    return Case(zoo.build(name), [zoo.example_input(name)], ours=("dense",))


def _trained_network(images: Callable[[], Tensor]) -> Case:
    if zoo.trained_module() is None:
        raise AbsentError("the trained networks are absent (../shared, or where HASTE_SHARED points)")
    return Case(zoo.trained("resnet18"), [x.contiguous() for x in images().split(1)])


def _single_convolution(duplicated: int) -> Case:
    """A 3×3 convolution, 128→128 channels, 28×28 pixels of noise; so many channels are copies of other ones."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 128, 28, 28, generator=generator)
    order = torch.randperm(128, generator=generator)
    x[:, order[:duplicated]] = x[:, order[128 - duplicated :]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Case(nn.Conv2d(128, 128, 3, padding=1).eval(), [x], ("dense", "haste_everywhere"), calls=20)


CASES: dict[str, Callable[[], Case]] = {
    "resnet18": lambda: _random_network("resnet18"),
    "resnet50": lambda: _random_network("resnet50"),
    "vgg16_bn": lambda: _random_network("vgg16_bn"),
    "cifar_resnet18": lambda: _trained_network(lambda: zoo.cifar_images("resnet18", 4)[0]),
    "photographs_resnet18": lambda: _trained_network(lambda: zoo.photographs(4)),
    "conv_half_duplicated": lambda: _single_convolution(64),
    "conv_none_duplicated": lambda: _single_convolution(0),
}
"""Name of each case and what builds it. Building raises AbsentError where something is not installed or not there."""

TITLES: dict[str, str] = {
    "resnet18": "ResNet-18, 224×224, random weights",
    "resnet50": "ResNet-50, 224×224, random weights",
    "vgg16_bn": "VGG-16 with batch norms, 224×224, random weights",
    "cifar_resnet18": "ResNet-18 trained on CIFAR-10, 32×32 test images",
    "photographs_resnet18": "ResNet-18 trained on CIFAR-10, photographs at 224×224",
    "conv_half_duplicated": "convolution 128→128, 3×3, 28×28, half of the channels duplicated",
    "conv_none_duplicated": "convolution 128→128, 3×3, 28×28, no channel duplicated",
}
