"""An operator is one file, and a row in a target's tuple: ``toy::cube``, in ``tests.ops.toy_operator``."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.codegen.cpu import rules
from haste_compiler.dynamo import op
from haste_compiler.graph.nodes import is_call
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.testing import EquivalenceError, assert_equivalent
from tests.ops import toy_operator
from tests.ops.toy_operator import CUBE

DENSE = HasteConfig(enabled=False, cost_model=False)
OPTIONS: dict[str, Any] = {"config": DENSE}


class Cubic(nn.Module):
    """Third powers of an image, between two convolutions and of a classifier's scores."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(CUBE(self.first(CUBE(x)), 0.5)).relu()
        return CUBE(self.head(x.mean((2, 3))))


@pytest.fixture(autouse=True)
def _row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "ROOMS", (*rules.ROOMS, "tests.ops.toy_operator"))


@pytest.fixture
def model() -> nn.Module:
    return Cubic().eval()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 9, 11)


def compiled(model: nn.Module, cache: bool = True, dynamic: bool = False) -> CompiledModule:
    return haste_compiler.compile(model, (images(),), config=DENSE, threads=1, cache=cache, dynamic=dynamic)


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_it_is_well_formed() -> None:
    torch.library.opcheck(CUBE, (images(),))
    torch.library.opcheck(CUBE, (images().to(memory_format=torch.channels_last), 0.5))


def test_it_is_compiled(model: nn.Module) -> None:
    network, x = compiled(model), images()
    assert close(network(x), model(x))
    symbols = [symbol for symbol, _ in network._parts()[0].executable.kernels if symbol.startswith("toy_cube")]
    assert len(symbols) == 3
    report = assert_equivalent(model, network, x)
    assert isinstance(report, haste_compiler.ValidationReport) and report.max_rel_error < 1e-5


def test_a_batch_of_any_size(model: nn.Module) -> None:
    network = compiled(model, dynamic=True)
    for count in (1, 2, 5):
        x = images(count)
        assert close(network(x), model(x))


def test_a_broken_kernel_is_found(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_operator, "third_power", lambda value: value * value)
    with pytest.raises(EquivalenceError, match=r"it reads something wrong, made of .* by cube") as caught:
        assert_equivalent(model, compiled(model, cache=False), images())
    assert caught.value.layer == "first"


def test_without_the_row_pytorch_runs_it(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "ROOMS", rules.ROOMS[:-1])
    made, x = compiled(model), images()
    assert any("toy.cube.default" in fallback.operators for fallback in made.explain().fallbacks)
    assert close(made(x), model(x))


def test_torch_compile_takes_it_into_a_region(model: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="haste_compiler.dynamo")
    torch._dynamo.reset()
    run, x = torch.compile(model, backend="haste", options=OPTIONS), images()
    assert close(run(x), model(x))
    assert "8 of 8 calls are ours, in 1 regions" in caplog.text
    region = list(op._regions.values())[-1]
    assert sum(is_call(node, CUBE) for node in region.gm.graph.nodes) == 3


def test_torch_compile_leaves_it_without_the_row(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rules, "ROOMS", rules.ROOMS[:-1])
    caplog.set_level(logging.INFO, logger="haste_compiler.dynamo")
    torch._dynamo.reset()
    run, x = torch.compile(model, backend="haste", options=OPTIONS), images()
    assert close(run(x), model(x))
    assert "5 of 8 calls are ours, in 2 regions" in caplog.text
