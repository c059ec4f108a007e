"""A tile that takes a neighbour's rows, a stride that is left out or a mask of another row garbles what is read."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.codegen.cpu.kernels.attention import AttentionSizes, Operand, Operands, attention_kernel
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from tests.codegen.kernels import assert_near, on_x86, run_kernel, targets


def stored(tensor: Tensor, order: list[int], offset: int) -> tuple[Tensor, Operand]:
    """``tensor`` with its axes laid out in ``order`` behind so many other elements: the memory, and where it lies."""
    moved = tensor.permute(order).contiguous()
    memory = torch.cat([torch.full((offset,), math.nan), moved.reshape(-1)])
    strides = moved.permute([order.index(axis) for axis in range(tensor.dim())]).stride()
    return memory, Operand(tuple(memory.shape), tuple(strides), offset)


def attend(
    tensors: list[Tensor],
    target: str,
    scale: float,
    mask: Tensor | None = None,
    orders: dict[str, list[int]] | None = None,
) -> Tensor:
    """The kernel's value for (*leading, rows, columns), each laid out in an order of its axes."""
    query, key, value = tensors
    rank, orders = query.dim(), orders or {}
    memories: list[Tensor] = []
    operands: list[Operand] = []
    for label, tensor in zip(("query", "key", "value"), tensors, strict=True):
        memory, operand = stored(tensor, orders.get(label, list(range(rank))), 3 * len(memories))
        memories.append(memory)
        operands.append(operand)
    mask_at = None
    if mask is not None:
        memories.append(mask)
        strides = [0 if size == 1 else step for size, step in zip(mask.shape, mask.stride(), strict=True)]
        mask_at = Operand(tuple(mask.shape), (*[0] * (rank - mask.dim()), *strides))
    out_shape = (*query.shape[:-1], value.shape[-1])
    out = Operand(out_shape, torch.empty(out_shape).stride())
    sizes = AttentionSizes(tuple(query.shape[:-2]), query.shape[-2], key.shape[-2], query.shape[-1], value.shape[-1])
    unit = vector_unit(parse_target(target))
    kernel = attention_kernel(
        "attention", sizes, Operands(operands[0], operands[1], operands[2], mask_at, out), scale, unit
    )
    return run_kernel(kernel, target, out_shape, *memories)


def reference(tensors: list[Tensor], scale: float, mask: Tensor | None = None) -> Tensor:
    query, key, value = (tensor.double() for tensor in tensors)
    given = None if mask is None else mask.double()
    return F.scaled_dot_product_attention(query, key, value, attn_mask=given, scale=scale)


@st.composite
def attentions(draw: st.DrawFn) -> tuple[list[Tensor], Tensor | None, dict[str, list[int]]]:
    leading = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    rank = len(leading) + 2
    queries, keys, width, features = (draw(st.integers(1, most)) for most in (30, 70, 20, 40))
    tensors = [torch.randn(*leading, *size) for size in ((queries, width), (keys, width), (keys, features))]
    shape = [draw(st.sampled_from([size, 1])) for size in (*leading, queries, keys)]
    mask = draw(st.sampled_from([None, torch.randn(shape), torch.randn(shape[-2:])]))
    last, before = rank - 1, rank - 2
    columns_last = st.permutations(range(last)).map(lambda order: [*order, last])
    rows_last = st.permutations([*range(before), last]).map(lambda order: [*order, before])
    orders = {
        "query": draw(st.permutations(range(rank))),
        "key": draw(columns_last | rows_last),
        "value": draw(columns_last),
    }
    return tensors, mask, orders


@on_x86
@pytest.mark.parametrize("target", targets())
@settings(max_examples=15, deadline=None)
@given(attentions())
def test_it_is_the_attention(target: str, drawn: tuple[list[Tensor], Tensor | None, dict[str, list[int]]]) -> None:
    """Around whole and partial tiles, of tensors wherever they lie."""
    tensors, mask, orders = drawn
    assert_near(attend(tensors, target, 0.3, mask, orders), reference(tensors, 0.3, mask), 1e-5)


def test_several_tasks_for_one_matrix() -> None:
    tensors = [torch.randn(2, 197, 64) for _ in range(3)]
    assert_near(attend(tensors, "llvm", 0.125), reference(tensors, 0.125), 1e-5)


def test_what_is_not_finite() -> None:
    """A key that is masked has no weight, a query without keys gets zeros, NaN stays in its row."""
    query, key, value = (torch.randn(1, 7, 16) for _ in range(3))
    mask = torch.zeros(7, 7)
    mask[0, 3:] = mask[1] = -torch.inf
    query[0, 2, 5] = torch.nan
    y = attend([query, key, value], "llvm", 0.25, mask)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.25)
    torch.testing.assert_close(y, expected, equal_nan=True)
    assert (y[0, 1] == 0).all() and y[0, 2].isnan().all() and y[0, 3:].isfinite().all()
