"""Which tensors are known to hold no negative number; a wrong yes would clip values to zero."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from haste_compiler.graph.capture import capture
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.methods.quantized.config import QuantizedConfig
from haste_compiler.methods.quantized.signs import is_nonnegative

CLIPPED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "clamp from 0": lambda x: x.clamp(0, 3),
    "maximum of windows": lambda x: F.max_pool2d(F.relu(x), 2),
    "mean of windows": lambda x: F.avg_pool2d(F.relu(x), 2).repeat(1, 1, 1, 1),
    "sum": lambda x: F.relu(x) + torch.sigmoid(x),
    "product with a positive number": lambda x: F.relu(x) * 0.5,
    "join": lambda x: torch.cat([F.relu(x), torch.sigmoid(x)], 1),
    "permutation": lambda x: F.relu(x).permute(0, 1, 3, 2),
}

OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "elu": F.elu,
    "leaky_relu": F.leaky_relu,
    "clamp from -1": lambda x: x.clamp(-1, 3),
    "difference": lambda x: F.relu(x) - 1.0,
    "product with a negative number": lambda x: F.relu(x) * -0.5,
    "sum with what is not clipped": lambda x: F.relu(x) + x,
    "sum with a negative weight": lambda x: torch.add(F.relu(x), torch.sigmoid(x), alpha=-1.0),
    "join with what is not clipped": lambda x: torch.cat([F.relu(x), x], 1),
    "negation": lambda x: -F.relu(x),
    "padding with -1": lambda x: F.pad(F.relu(x), (1, 1, 1, 1), value=-1.0),
}


class Branches(nn.Module):
    """For every function a convolution of its result."""

    def __init__(self, functions: dict[str, Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.first, self.functions = nn.Conv2d(8, 8, 3), functions
        channels = [function(torch.randn(1, 8, 6, 6)).shape[1] for function in functions.values()]
        self.last = nn.ModuleList(nn.Conv2d(count, 8, 1) for count in channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.first(x)
        return [conv(function(y)) for conv, function in zip(self.last, self.functions.values(), strict=True)]


def known(functions: dict[str, Callable[[Tensor], Tensor]]) -> dict[str, bool]:
    """Whether each result is known to hold no negative number."""
    captured = capture(Branches(functions), (torch.randn(1, 8, 8, 8),))
    gm = run_passes(captured, QuantizedConfig(enabled=False))
    _, *last = [node for node in gm.graph.nodes if node.target is torch.ops.haste.conv2d.default]
    return {name: is_nonnegative(node.args[0]) for name, node in zip(functions, last, strict=True)}


def test_what_is_clipped_is_known_through_what_keeps_it() -> None:
    assert known(CLIPPED) == dict.fromkeys(CLIPPED, True)


def test_what_may_be_negative_is_not() -> None:
    assert known(OTHERS) == dict.fromkeys(OTHERS, False)
