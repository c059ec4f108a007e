"""A layer that is handed back must compute what it computed, as PyTorch's, and nothing else may go with it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haste_compiler import HasteConfig
from haste_compiler.codegen.build import build
from haste_compiler.codegen.target import machine_of, parse_target
from haste_compiler.codegen.walk import lower
from haste_compiler.graph.capture import capture
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.methods.registry import rules_for
from haste_compiler.passes.hand_back import hand_back
from haste_compiler.runtime.executable import Executable
from tests.passes.checking import assert_same, calls

ACTIVATIONS: dict[str, Any] = {
    "none": lambda x: x,
    "relu": F.relu,
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "gelu": F.gelu,
    "elu": lambda x: F.elu(x, 0.5),
}


class Net(nn.Module):
    """Two convolutions, the second with a residual and an activation, then a linear layer."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2)
        self.second = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.last, self.activation = nn.Linear(8, 5), activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(F.pad(x, (0, 1, 0, 1))).relu()
        x = ACTIVATIONS[self.activation](self.second(x) + x)
        return ACTIVATIONS[self.activation](self.last(x.mean((2, 3))))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_computes_the_same(activation: str) -> None:
    model, x = Net(activation).eval(), torch.randn(2, 3, 12, 12)
    gm = run_passes(capture(model, (x,)), HasteConfig(enabled=False))
    gm = hand_back(gm, {"second", "last"})
    assert calls(gm)["haste.conv2d"] == 1 and calls(gm)["aten.conv2d"] == 1 and calls(gm)["aten.linear"] == 1
    assert_same(gm(x), model(x))


def test_pytorch_runs_it() -> None:
    """Layers that were handed back, convolutions and others, are called as PyTorch's; images stay as they lie."""
    model, x = Net("gelu").eval(), torch.randn(2, 3, 12, 12)
    captured, machine = capture(model, (x,)), machine_of(parse_target("llvm"))
    gm = run_passes(captured, HasteConfig(enabled=False))
    (mean,) = gm.graph.find_nodes(op="call_function", target=torch.ops.aten.mean.dim)
    mean.meta["layer"] = "middle"
    lowered = lower(hand_back(gm, {"second", "middle"}), machine, rules_for(machine))
    executable = Executable(build(lowered, machine), lowered, 1, machine.missing())
    operators = [name for fallback in executable.fallbacks for name in fallback.operators]
    assert operators == ["aten.conv2d.default", "aten.add.Tensor", "aten.gelu.default", "aten.mean.dim"]
    assert [layer for _, layer in executable.kernels if layer in ("first", "second", "last")].count("second") == 1
    (y,), _ = executable.run([x])
    assert_same(y, model(x))
