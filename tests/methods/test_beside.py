"""Methods' layers beside the plain network: each computes on what it reads there, whatever the others do."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from haste_compiler import HasteConfig, QuantizedConfig
from haste_compiler.compiler import compile_beside
from haste_compiler.graph.capture import capture
from haste_compiler.methods.config import MethodConfig
from haste_compiler.methods.layers import OWNER
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.methods.traced import Traced
from tests.methods.quantized.test_rewrite import Mixed

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))

HASTE = HasteConfig(cost_model=False, tolerance=1.0, num_hyperplanes=4, min_reads=0)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().eval()


def in_the_network(model: nn.Module, config: MethodConfig, name: str, names: set[str]) -> Tensor:
    """What a layer returns in eager PyTorch where all others are plain."""
    others = {other: {"enabled": False} for other in names - {name}}
    gm = run_passes(capture(model, (X,)), config.replace(layers=others))
    (node,) = (each for each in gm.graph.nodes if OWNER in each.meta)
    seen: list[Tensor] = []

    def keep(values: Mapping[fx.Node, Any]) -> Tensor:
        seen.append(node.target(*map_arg(node.args, lambda read: values[read])))
        return seen[0]

    Traced(gm, [], [X]).run_with({node: keep})
    return seen[0]


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (HASTE, {"square", "point"}),
        (QuantizedConfig(cost_model=False), {"stem", "square", "point", "grouped", "head"}),
    ],
)
def test_each_layer_returns_what_it_does_alone_in_the_network(
    model: nn.Module, config: MethodConfig, names: set[str]
) -> None:
    found = compile_beside(model, config, target="llvm", threads=1)(X)
    assert set(found) == names
    for name, value in found.items():
        expected = in_the_network(model, config, name, names)
        assert (value - expected).norm() < 1e-3 * expected.norm()


def test_steering_one_layer_changes_no_other(model: nn.Module) -> None:
    compiled = compile_beside(model, HASTE, target="llvm", threads=1)
    compiled.prepare(X)
    compiled.tolerance = 0.0
    compiled.flat_tolerance = 0.0
    before = {name: value.clone() for name, value in compiled(X).items()}
    compiled.tolerance = {"square": 1.0}
    after = compiled(X)
    assert not torch.equal(after["square"], before["square"]) and torch.equal(after["point"], before["point"])
