"""The kernel against the operator: a scale of another row or block is off by more than rounding."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.codegen.cpu.kernels.attention import Operand, Operands, attention_kernel
from haste_compiler.codegen.cpu.kernels.attention_tiling import AttentionSizes, choose_attention
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from haste_compiler.methods.quantized.cpu.attention import IntegerProducts, choose_blocks
from haste_compiler.methods.quantized.reference.attention import attend_integers
from tests.codegen.kernels import assert_near, on_x86, run_kernel, targets
from tests.methods.quantized.units import OF_8_BITS, unit_of

ROUNDING = 3e-4
"""What powers of two differ by may round to another 255th."""

Tensors = tuple[Tensor, Tensor, Tensor]


def attend(tensors: Tensors, mask: Tensor | None, causal: bool, target: str = "llvm", unit: str = "own") -> Tensor:
    query, key, value = tensors
    *leading, queries, width = query.shape
    sizes = AttentionSizes(tuple(leading), queries, key.shape[-2], width, value.shape[-1])
    shape = (*query.shape[:-1], value.shape[-1])
    given_mask = [] if mask is None else [mask.expand(*query.shape[:-1], key.shape[-2]).contiguous()]
    places = [
        Operand(tuple(each.shape), each.stride()) for each in (query, key, value, torch.empty(shape), *given_mask)
    ]
    tiling = choose_attention(sizes, vector_unit(parse_target(target)), 1)
    products = IntegerProducts(sizes, choose_blocks(sizes, tiling), unit_of(unit, target))
    kernel = attention_kernel("attention", sizes, Operands(*places), 0.3, products, causal=causal)
    return run_kernel(kernel, target, shape, query, key, value, *given_mask)


@st.composite
def attentions(draw: st.DrawFn) -> tuple[Tensors, Tensor | None, bool]:
    queries, keys, width, features = (draw(st.integers(1, most)) for most in (30, 70, 20, 40))
    keys += draw(st.sampled_from([0, 0, 250]))
    tensors = (torch.randn(2, queries, width), torch.randn(2, keys, width), torch.randn(2, keys, features))
    mask = draw(st.sampled_from([None, torch.randn(2, queries, keys), torch.randn(1, keys)]))
    if mask is not None and draw(st.booleans()):
        mask[torch.rand(mask.shape) < 0.3] = -math.inf
    return tensors, mask, draw(st.booleans())


@on_x86
@pytest.mark.parametrize(
    ("target", "unit"), [*((each, "own") for each in targets()), *(("llvm", u) for u in OF_8_BITS[1:])]
)
@settings(max_examples=5, deadline=None)
@given(attentions())
def test_it_is_the_attention(target: str, unit: str, drawn: tuple[Tensors, Tensor | None, bool]) -> None:
    """Of whole and partial tiles, blocks and groups of values, by whatever instructions."""
    tensors, mask, causal = drawn
    expected = attend_integers(*tensors, mask, 0.3, causal=causal)
    assert_near(attend(tensors, mask, causal, target, unit), expected, ROUNDING)


def test_it_is_near_the_attention_of_float32() -> None:
    query, key, value = (torch.randn(2, 300, 64) for _ in range(3))
    expected = F.scaled_dot_product_attention(query, key, value, scale=0.3)
    error = (attend((query, key, value), None, False) - expected).norm() / expected.norm()
    assert 1e-3 < error < 0.03


def test_what_is_not_finite() -> None:
    """Makes NaN of what reads it, and of nothing else."""
    query, key, value = (torch.randn(3, size, 16) for size in (7, 20, 20))
    query[0, 2, 5], value[1, 3, 4], key[2, 9, 1] = math.nan, math.inf, math.nan
    y = attend((query, key, value), None, False)
    torch.testing.assert_close(
        y.isnan(), attend_integers(query, key, value, None, 0.3, causal=False).isnan(), rtol=0, atol=0
    )
    assert y[0, 2].isnan().all() and y[1, :, 4].isnan().all() and y[2].isnan().all()
    assert y[0, :2].isfinite().all() and y[1, :, :4].isfinite().all()
