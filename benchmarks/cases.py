"""What is measured: networks and single convolutions, each with the inputs that it runs on."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import images
from tests import vision, zoo

ABSENT = "the trained networks are absent (../shared, or where HASTE_SHARED points)"

TRAINED = ("cifar_resnet18", "photographs_resnet18")
"""Cases whose network is trained, so that HASTE has something to merge."""

MOST_IMAGES = 32
"""Largest batch: there are no more photographs."""

_CIFAR_CHECKED = 512
_CIFAR_SEARCHED = 512
_CIFAR_ALL = 10_000
_MADE_UP_CHECKED = 8

_CHECKED_PHOTOGRAPHS = np.flatnonzero(np.isin(np.arange(images.PHOTOGRAPHS) % 5, (0, 2)))
_CALIBRATING_PHOTOGRAPHS = np.setdiff1d(np.arange(images.PHOTOGRAPHS), _CHECKED_PHOTOGRAPHS)

_DENSE = ("dense", "int8")


class AbsentError(Exception):
    """Something that a measurement needs is not on this machine; the message says what."""


@dataclass(frozen=True)
class Calibrating:
    """Images to calibrate int8 peers on.

    Attributes:
        draw: returns so many, (N, C, H, W), others than those that are checked where there are enough.
        kind: what they are, for a table's notes.
    """

    draw: Callable[[int], Tensor]
    kind: str


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
        calibrating: images for int8 peers; None: there are only the inputs.
        brightest: an output's largest value, where outputs are images; NaN where they aren't.
    """

    model: nn.Module
    inputs: list[Tensor]
    checked: list[Tensor]
    labels: Tensor | None = None
    ours: tuple[str, ...] = (*_DENSE, "haste", "searched", "paper")
    calls: int = 1
    calibrating: Calibrating | None = None
    brightest: float = math.nan


def _random_network(name: str, batch: int) -> Case:
    reason = zoo.missing_torchvision()
    if reason:
        raise AbsentError(reason)
    return _on_made_up_images(zoo.build(name), (3, zoo.ZOO[name], zoo.ZOO[name]), batch)


def _vision_network(name: str, batch: int) -> Case:
    return _on_made_up_images(_vision_model(name), vision.VISION[name][1][1:], batch)


def _vision_model(name: str) -> nn.Module:
    try:
        return vision.build(name)
    except vision.AbsentError as error:
        raise AbsentError(str(error)) from None


def _on_made_up_images(model: nn.Module, shape: tuple[int, ...], batch: int) -> Case:
    """A network for images (C, H, W) of random weights: some are checked, one call is timed."""
    checked = _calls(images.made_up((_rounded(_MADE_UP_CHECKED, batch), *shape), seed=0), batch)
    calibrating = Calibrating(lambda count: images.made_up((count, *shape), seed=1), "made-up images")
    return Case(model, checked[:1], checked, ours=_DENSE, calibrating=calibrating)


def _real_network(
    name: str,
    model: str,
    size: tuple[int, int],
    checked: int,
    batch: int,
    brightest: float = math.nan,
    labelled: bool = False,
) -> Case:
    """A network with its real weights on photographs: some are checked, one call is timed."""
    every = checked == images.PHOTOGRAPHS
    which = np.arange(checked) if every else _CHECKED_PHOTOGRAPHS[: _rounded(checked, batch)]
    try:
        photographs, labels = images.photographs(which, model, size)
    except vision.AbsentError as error:
        raise AbsentError(str(error)) from None
    calls = _calls(photographs, batch)

    def draw(count: int) -> Tensor:
        return images.photographs(_CALIBRATING_PHOTOGRAPHS[:count], model, size)[0]

    kind = "photographs, which are among those checked" if every else "photographs"
    return Case(
        _vision_model(name),
        calls[:1],
        calls,
        labels[: len(calls) * batch] if labelled else None,
        ours=_DENSE,
        calibrating=Calibrating(draw, kind),
        brightest=brightest,
    )


def _rounded(count: int, batch: int) -> int:
    """The least multiple of ``batch`` that isn't less."""
    return -(-count // batch) * batch


def _calls(inputs: Tensor, batch: int) -> list[Tensor]:
    """All inputs in calls of ``batch``; those that don't fill the last one are left out."""
    return [x.contiguous() for x in inputs[: len(inputs) // batch * batch].split(batch)]


def _trained_network(inputs: Tensor, labels: Tensor | None, batch: int, calibrating: Calibrating) -> Case:
    """All images are checked, some 4 of them timed, or one call."""
    calls = _calls(inputs, batch)
    return Case(
        zoo.trained("resnet18"),
        calls[: max(1, 4 // batch)],
        calls,
        None if labels is None else labels[: len(calls) * batch],
        calibrating=calibrating,
    )


def _cifar(batch: int, checked: int = _CIFAR_CHECKED) -> Case:
    _need_trained()
    inputs, labels = zoo.cifar_images("resnet18", checked)
    return _trained_network(inputs, labels, batch, Calibrating(images.training_images, "training images"))


def _photographs(batch: int) -> Case:
    """Half of the photographs, and their mirror images; the other half is searched on."""
    _need_trained()
    inputs = _with_mirrored(zoo.photographs()[::2])
    return _trained_network(inputs, None, batch, Calibrating(images.photographs_beside, "photographs"))


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


def _with_mirrored(inputs: Tensor) -> Tensor:
    return torch.cat((inputs, inputs.flip(3)))


def _single_convolution(duplicated: int, batch: int) -> Case:
    """A 3×3 convolution, 128→128 channels, 28×28 pixels of noise; so many channels are copies of other ones."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 128, 28, 28, generator=generator)
    order = torch.randperm(128, generator=generator)
    x[:, order[:duplicated]] = x[:, order[128 - duplicated :]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Conv2d(128, 128, 3, padding=1).eval()
    return Case(model, [x], [x], ours=(*_DENSE, "haste_everywhere"), calls=20)


def _linear(batch: int) -> Case:
    """AlexNet's first linear layer, 9216→4096, on noise of which three in four values are zero, as after ReLU."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 9216, generator=generator)
    x[torch.rand(x.shape, generator=generator) < 0.75] = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(9216, 4096).eval()
    return Case(model, [x], [x], ours=_DENSE)


CASES: dict[str, Callable[[int], Case]] = {
    "cifar_resnet18": _cifar,
    "photographs_resnet18": _photographs,
    **{name: partial(_random_network, name) for name in zoo.ZOO},
    **{name: partial(_vision_network, name) for name in vision.VISION},
    "srvgg": partial(_real_network, "srvgg", "srvgg", (256, 256), 2, brightest=1.0),
    "efficientnet_lite0": partial(_real_network, "efficientnet_lite0", "efflite0", (224, 224), 200, labelled=True),
    "ocr_detection": partial(_real_network, "ocr_detection", "ocrdet", (480, 640), 2),
    "conv_half_duplicated": partial(_single_convolution, 64),
    "conv_none_duplicated": partial(_single_convolution, 0),
    "linear_mostly_zero": _linear,
}
"""Name of each case and what builds it for a batch. Building raises AbsentError where something is not there."""

ALL_IMAGES: dict[str, Callable[[int], Case]] = {
    "cifar_resnet18": partial(_cifar, checked=_CIFAR_ALL),
    "efficientnet_lite0": partial(
        _real_network, "efficientnet_lite0", "efflite0", (224, 224), images.PHOTOGRAPHS, labelled=True
    ),
}
"""The cases that have labels, checked on all images that there are."""

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

INT8 = (
    *TRAINED,
    "resnet34",
    "resnet50",
    "vgg16_bn",
    "mobilenet_v2",
    "efficientnet_lite0",
    "srvgg",
    "vit_tiny",
)
"""Cases that int8 is measured on unless others are named."""

TITLES: dict[str, str] = {
    "cifar_resnet18": "ResNet-18 trained on CIFAR-10, 32×32 test images",
    "photographs_resnet18": "ResNet-18 trained on CIFAR-10, photographs at 224×224",
    **{name: f"{name}, {side}×{side}, random weights" for name, side in zoo.ZOO.items()},
    **{name: f"{name}, {'×'.join(map(str, shape[1:]))}" for name, (_, shape) in vision.VISION.items()},
    "srvgg": "Real-ESRGAN's compact network, photographs at 256×256",
    "efficientnet_lite0": "EfficientNet-Lite0 trained on ImageNet, photographs at 224×224",
    "ocr_detection": "PP-OCRv6 text detection, photographs at 480×640",
    "conv_half_duplicated": "convolution 128→128, 3×3, 28×28, half of the channels duplicated",
    "conv_none_duplicated": "convolution 128→128, 3×3, 28×28, no channel duplicated",
    "linear_mostly_zero": "linear layer 9216→4096, three in four inputs zero",
}
