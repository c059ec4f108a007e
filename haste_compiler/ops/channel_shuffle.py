"""``haste::channel_shuffle``: channels of several groups interleaved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.ops.call import OpCall


@torch.library.custom_op("haste::channel_shuffle", mutates_args=())
def channel_shuffle(parts: Sequence[Tensor], groups: int, start: int, end: int) -> Tensor:
    """Interleave the channels of ``groups`` groups: channel ``g * (C / groups) + i`` goes to ``i * groups + g``.

    Args:
        parts: (N, Cp, H, W) each, joined along their channels, C in all: one tensor, or each group's own.
        groups: how many; C is divisible by it.
        start: first channel of the shuffled tensor that is wanted, divisible by ``groups``.
        end: the one after the last, divisible by ``groups``.

    Returns:
        (N, end - start, H, W).
    """
    x = torch.cat(list(parts), 1)
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)[:, start:end].clone()


@channel_shuffle.register_fake
def _(parts: Sequence[Tensor], groups: int, start: int, end: int) -> Tensor:
    n, _, h, w = parts[0].shape
    return parts[0].new_empty((n, end - start, h, w))


CHANNEL_SHUFFLE = torch.ops.haste.channel_shuffle.default


@dataclass(frozen=True)
class ShuffleCall(OpCall):
    """A call of ``haste::channel_shuffle``."""

    OP: ClassVar[Any] = CHANNEL_SHUFFLE

    parts: list[fx.Node]
    groups: int
    start: int
    end: int
