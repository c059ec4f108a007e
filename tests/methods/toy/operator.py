"""``toy::round``: values rounded to multiples of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.ops.call import OpCall


@torch.library.custom_op("toy::round", mutates_args=())
def toy_round(x: Tensor, settings: Tensor) -> Tensor:
    """Round to the nearest multiple of the step, the larger one of two; a step of 0 rounds nothing.

    Args:
        x: any shape.
        settings: float32 (1,), the step.
    """
    step = float(settings)
    return torch.floor(x / step + 0.5) * step if step else x.clone()


@toy_round.register_fake
def _(x: Tensor, settings: Tensor) -> Tensor:
    return torch.empty_like(x)


ROUND = torch.ops.toy.round.default


@dataclass(frozen=True)
class RoundCall(OpCall):
    """A call of ``toy::round``."""

    OP: ClassVar[Any] = ROUND

    x: fx.Node
    settings: fx.Node
