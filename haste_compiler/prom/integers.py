"""Weights and inputs of 8 bits as method ``quantized`` rounds them, with gradients straight through."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from haste_compiler.methods.quantized.reference.rounding import LEAST, most, quantize
from haste_compiler.methods.quantized.weights import quantize_filters
from haste_compiler.prom.straight_through import straight_through


class EightBits(nn.Module):
    """A parametrization of weights by integers of 8 bits times a scale for each output channel.

    The largest integer of a channel is 127, so ``quantize_filters`` of the product finds the same integers. After batch
    norm was folded it finds them too, up to a channel's sign.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """Float32 (K, ...) to weights of the same shape."""
        with torch.no_grad():
            integers, scale = quantize_filters(weight)
            rounded = integers.float().mul_(scale.view(-1, *[1] * (weight.dim() - 1)))
        return straight_through(weight, rounded)


@dataclass(frozen=True)
class RoundedInput:
    """A forward pre-hook that rounds a layer's input as the compiled layer will.

    Attributes:
        axes: that share a scale.
        nonnegative: no input is negative.
        bits: of the integers.
    """

    axes: tuple[int, ...]
    nonnegative: bool
    bits: int

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The inputs, the first of them rounded."""
        x, *rest = inputs
        with torch.no_grad():
            rounded = self._quickly(x) if module.training else self._exactly(x)
        return straight_through(x, rounded), *rest

    def _exactly(self, x: Tensor) -> Tensor:
        integers, scale = quantize(x, self.axes, nonnegative=self.nonnegative, bits=self.bits)
        return (integers * scale.double()).float()

    def _quickly(self, x: Tensor) -> Tensor:
        """As ``_exactly`` but for quotients within a millionth of a half: these are products of float32 here."""
        largest = torch.amax(x if self.nonnegative else x.abs(), self.axes, keepdim=True).clamp_(min=LEAST)
        limit = most(self.bits, nonnegative=self.nonnegative)
        return (x * (limit / largest)).round_().mul_(largest.div_(limit))
