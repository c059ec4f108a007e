"""What TVM generates itself: operators in a row are one pass over memory, and compute what they did apart."""

from typing import Any

import numpy as np
import pytest
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from tvm import s_tir, te

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.codegen.cpu.schedule import schedule_rest

SHAPE = (4, 6, 16)


def passes(output: Any, *others: Any) -> int:
    """How many tensors the scheduled function writes."""
    mod = schedule_rest(tvm.IRModule({"main": te.create_prim_func([*others, output])}), 8)
    schedule = s_tir.Schedule(mod)
    return len(schedule.get_child_blocks(schedule.get_sblock("root")))


def test_a_chain_of_operators_writes_one_tensor() -> None:
    """Breaks where every operator of ``x * f + x + y`` writes a map that the next one reads from memory."""
    x, y, f = (te.placeholder(shape, name=name) for shape, name in ((SHAPE, "x"), (SHAPE, "y"), ((16,), "f")))
    product = te.compute(SHAPE, lambda i, j, k: x[i, j, k] * f[k], "product")
    total = te.compute(SHAPE, lambda i, j, k: product[i, j, k] + x[i, j, k], "total")
    assert passes(te.compute(SHAPE, lambda i, j, k: total[i, j, k] + y[i, j, k], "z"), x, f, y) == 1


@pytest.mark.parametrize("kind", ["read twice", "repeated", "summed"])
def test_what_would_be_computed_again_is_kept(kind: str) -> None:
    """Breaks where squares of squares are spelled out, a factor is computed for each pixel, or a sum is taken apart."""
    x = te.placeholder(SHAPE, name="x")
    if kind == "read twice":
        before = te.compute(SHAPE, lambda i, j, k: x[i, j, k] + 1.0, "before")
        after = te.compute(SHAPE, lambda i, j, k: before[i, j, k] * before[i, j, k], "after")
    elif kind == "repeated":
        before = te.compute((16,), lambda k: te.exp(x[0, 0, k]), "before")
        after = te.compute(SHAPE, lambda i, j, k: before[k] + x[i, j, k], "after")
    else:
        along = te.reduce_axis((0, 16), "along")
        before = te.compute(SHAPE, lambda i, j, k: x[i, j, k] * 2.0, "before")
        after = te.compute(SHAPE[:2], lambda i, j: te.sum(before[i, j, along], axis=along), "after")
    assert passes(after, x) == 2


def test_what_is_returned_too_is_written() -> None:
    """Breaks where a tensor that the caller asked for is computed away."""
    x = te.placeholder(SHAPE, name="x")
    before = te.compute(SHAPE, lambda i, j, k: x[i, j, k] + 1.0, "before")
    assert passes(te.compute(SHAPE, lambda i, j, k: before[i, j, k] * 2.0, "after"), x, before) == 2


class Gated(nn.Module):
    """A map times its channels' gates, added to itself and to another: what no kernel of ours computes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.gate, self.other = (nn.Conv2d(channels, channels, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        squared = (x - 0.5) * (x - 0.5)
        return x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True))) + x + self.other(x).abs() * 0.5 - squared


@settings(max_examples=3)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(1, 2), st.booleans())
def test_generated(channels: int, height: int, width: int, batch: int, dynamic: bool) -> None:
    torch.manual_seed(channels)
    model, x = Gated(channels).eval(), torch.randn(batch + dynamic, channels, height, width)
    compiled = haste_compiler.compile(
        model, (x,), config=HasteConfig(enabled=False), threads=2, cache=False, dynamic=dynamic
    )
    with torch.no_grad():
        np.testing.assert_allclose(compiled(x), model(x), rtol=1e-4, atol=1e-5)
