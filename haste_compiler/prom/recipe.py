"""How a network is trained: numbers only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from haste_compiler.errors import ConfigError


@dataclass(frozen=True)
class Phase:
    """Epochs of one kind.

    Attributes:
        name: "float" or "prom".
        sizes: side of the images of each epoch, in pixels.
        peak: the largest learning rate.
        warmup: part of all steps over which the rate rises to it.
        distillation: the teacher's part in the loss, 0 to 1; the rest are the labels.
    """

    name: str
    sizes: tuple[int, ...]
    peak: float
    warmup: float = 0.15
    distillation: float = 0.0

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step of ``steps``: it rises, then falls by a cosine (arXiv 1608.03983, equation 5)."""
        rising = steps * self.warmup
        if step < rising:
            return self.peak * (step / rising)
        return self.peak * (0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising))))


@dataclass(frozen=True)
class Recipe:
    """What all phases share.

    Attributes:
        batch: images of a step.
        seed: of weights, order and augmentation.
        decay: weight decay of filters; scales and biases have none.
        smoothing: of labels.
        temperature: of distillation.
    """

    batch: int = 128
    seed: int = 0
    decay: float = 2e-4
    smoothing: float = 0.05
    temperature: float = 2.0


def parse_sizes(text: str, usual: int) -> tuple[int, ...]:
    """Sides of images by epoch, from "12@24,5@32": 12 epochs of 24 pixels, then 5 of 32; "5": of ``usual`` pixels.

    Raises:
        ConfigError: it has another form.
    """
    sizes: list[int] = []
    for part in text.split(","):
        epochs, at, side = part.strip().partition("@")
        numbers = (epochs, side) if at else (epochs,)
        if not all(number.isdecimal() and int(number) > 0 for number in numbers):
            raise ConfigError(f"epochs are given as EPOCHS or EPOCHS@PIXELS, such as 12@24,5@32, not {part!r}")
        sizes += [int(side or usual)] * int(epochs)
    return tuple(sizes)
