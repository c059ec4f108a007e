"""What is measured: networks and single convolutions, each with the inputs that it runs on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.decoders import UNet, generator, style_decoder
from tests import zoo

ABSENT = "the trained networks are absent (../shared, or where HASTE_SHARED points)"

TRAINED = ("cifar_resnet18", "photographs_resnet18")
"""Cases whose network is trained, so that HASTE has something to merge."""

MOST_IMAGES = 32
"""Largest batch: there are no more photographs."""

_CIFAR_CHECKED = 512
_CIFAR_SEARCHED = 512


class AbsentError(Exception):
    """Something that a measurement needs is not on this machine; the message says what."""


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        model: in evaluation mode.
        inputs: calls that are timed, each (N, C, H, W) and of the same shape; every measurement runs over all of them.
        checked: calls whose outputs are compared with the original's, of that shape too.
        labels: classes of the checked images, int64 (images,); None: there are none.
        ours: this compiler's runners that are measured; random weights hold nothing that is worth merging.
        calls: how often each input is run in one measurement; more for what takes microseconds.
    """

    model: nn.Module
    inputs: list[Tensor]
    checked: list[Tensor]
    labels: Tensor | None = None
    ours: tuple[str, ...] = ("dense", "haste", "searched", "paper")
    calls: int = 1


def _random_network(name: str, batch: int) -> Case:
    reason = zoo.missing_torchvision()
    if reason:
        raise AbsentError(reason)
    x = [zoo.example_input(name, batch)]
    return Case(zoo.build(name), x, x, ours=("dense",))


def _trained_network(images: Tensor, labels: Tensor | None, batch: int) -> Case:
    """All images are checked, some 4 of them timed, or one call."""
    whole = images[: len(images) // batch * batch]
    calls = [x.contiguous() for x in whole.split(batch)]
    return Case(
        zoo.trained("resnet18"), calls[: max(1, 4 // batch)], calls, None if labels is None else labels[: len(whole)]
    )


def _cifar(batch: int) -> Case:
    _need_trained()
    return _trained_network(*zoo.cifar_images("resnet18", _CIFAR_CHECKED), batch)


def _photographs(batch: int) -> Case:
    """Half of the photographs, and their mirror images; the other half is searched on."""
    _need_trained()
    return _trained_network(_with_mirrored(zoo.photographs()[::2]), None, batch)


def searched_images(case: str) -> Tensor:
    """Unlabelled images (N, C, H, W) like those of one of ``TRAINED``, but others.

    Raises:
        AbsentError: they are not there.
    """
    _need_trained()
    if case == "photographs_resnet18":
        return _with_mirrored(zoo.photographs()[1::2])
    return zoo.cifar_images("resnet18", _CIFAR_CHECKED + _CIFAR_SEARCHED)[0][_CIFAR_CHECKED:]


def _need_trained() -> None:
    if zoo.trained_module() is None:
        raise AbsentError(ABSENT)


def _with_mirrored(images: Tensor) -> Tensor:
    return torch.cat((images, images.flip(3)))


def _single_convolution(duplicated: int, batch: int) -> Case:
    """A 3×3 convolution, 128→128 channels, 28×28 pixels of noise; so many channels are copies of other ones."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 128, 28, 28, generator=generator)
    order = torch.randperm(128, generator=generator)
    x[:, order[:duplicated]] = x[:, order[128 - duplicated :]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Conv2d(128, 128, 3, padding=1).eval()
    return Case(model, [x], [x], ours=("dense", "haste_everywhere"), calls=20)


def _linear(batch: int) -> Case:
    """AlexNet's first linear layer, 9216→4096, on noise of which three in four values are zero, as after ReLU."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 9216, generator=generator)
    x[torch.rand(x.shape, generator=generator) < 0.75] = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(9216, 4096).eval()
    return Case(model, [x], [x], ours=("dense",))


def _decoder(build: Callable[[], nn.Module], shape: tuple[int, int, int], batch: int) -> Case:
    """A network with transposed convolutions, random weights, on noise of (C, H, W) ``shape``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = build().eval(), [torch.randn(batch, *shape)]
    return Case(model, x, x, ours=("dense",))


CASES: dict[str, Callable[[int], Case]] = {
    "cifar_resnet18": _cifar,
    "photographs_resnet18": _photographs,
    **{name: partial(_random_network, name) for name in zoo.ZOO},
    "conv_half_duplicated": partial(_single_convolution, 64),
    "conv_none_duplicated": partial(_single_convolution, 0),
    "linear_mostly_zero": _linear,
    "unet": partial(_decoder, UNet, (3, 256, 256)),
    "dcgan": partial(_decoder, generator, (100, 1, 1)),
    "style_decoder": partial(_decoder, style_decoder, (128, 64, 64)),
}
"""Name of each case and what builds it for a batch. Building raises AbsentError where something is not there."""

USUAL = (
    *TRAINED,
    "resnet18",
    "resnet34",
    "resnet50",
    "vgg16_bn",
    "squeezenet1_1",
    "mobilenet_v2",
    "conv_half_duplicated",
    "conv_none_duplicated",
    "linear_mostly_zero",
)
"""Cases that are measured unless others are named."""

TITLES: dict[str, str] = {
    "cifar_resnet18": "ResNet-18 trained on CIFAR-10, 32×32 test images",
    "photographs_resnet18": "ResNet-18 trained on CIFAR-10, photographs at 224×224",
    **{name: f"{name}, {side}×{side}, random weights" for name, side in zoo.ZOO.items()},
    "conv_half_duplicated": "convolution 128→128, 3×3, 28×28, half of the channels duplicated",
    "conv_none_duplicated": "convolution 128→128, 3×3, 28×28, no channel duplicated",
    "linear_mostly_zero": "linear layer 9216→4096, three in four inputs zero",
    "unet": "U-Net with transposed convolutions, width 32, four levels, 256×256",
    "dcgan": "DCGAN's generator, 64×64",
    "style_decoder": "decoder of a style-transfer network, 64×64 to 256×256",
}
