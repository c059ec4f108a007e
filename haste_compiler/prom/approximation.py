"""Trained filters as sums of ternary ones, without training: what training is held against."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn


def closest_ternary(weight: Tensor) -> Tensor:
    """The filters {-a, 0, a}, by output channel, whose squared distance to the given ones is least.

    With the k largest kept, a is their mean, and the distance falls by ``(their sum)² / k``: the best k is the one for
    which that is largest (Li et al., arXiv 1605.04711, equation 5, which is solved there for a normal distribution).

    Args:
        weight: float32 (K, ...).

    Returns:
        The same shape.
    """
    flat = weight.flatten(1)
    sizes = flat.abs().sort(1, descending=True).values
    counts = torch.arange(1, flat.shape[1] + 1, device=weight.device)
    sums = sizes.cumsum(1)
    best = (sums.square() / counts).argmax(1, keepdim=True)
    scale, least = sums.gather(1, best) / counts[best], sizes.gather(1, best)
    return (flat.sign() * (flat.abs() >= least) * scale).reshape(weight.shape)


def ternary_sum(weight: Tensor, terms: int) -> Tensor:
    """The sum of ``terms`` ternary filters, each the closest to what those before leave: (K, ...), as ``weight``."""
    total = torch.zeros_like(weight)
    for _ in range(terms):
        total += closest_ternary(weight - total)
    return total


def approximate(model: nn.Module, names: Collection[str], terms: int) -> nn.Module:
    """A copy of a network with the filters of some layers as sums of ternary ones.

    Args:
        model: convolutions and linear layers, among others.
        names: of the layers.
        terms: of each sum.
    """
    made = copy.deepcopy(model)
    for name in names:
        weight = made.get_submodule(name).get_parameter("weight")
        weight.data = ternary_sum(weight.data, terms)
    return made
