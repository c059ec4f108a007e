"""A tile that takes a neighbour's rows, a stride that is left out or a mask of another row garbles what is read.

A block of keys whose sums aren't scaled to the largest score so far is weighted wrongly.
"""

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from tvm import tirx

from haste_compiler.codegen.cpu.kernels.attention import Operand, Operands, attention_kernel
from haste_compiler.codegen.cpu.kernels.attention_products import FloatProducts
from haste_compiler.codegen.cpu.kernels.attention_tiling import AttentionSizes, AttentionTiling, choose_attention
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from haste_compiler.ops.attention import attention
from tests.codegen.kernels import assert_near, on_x86, run_kernel, targets


@dataclass
class Case:
    """Tensors (*leading, rows, columns), each laid out in an order of its axes."""

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float = 0.3
    mask: Tensor | None = None
    lengths: Tensor | None = None
    query_lengths: Tensor | None = None
    causal: bool = False
    orders: dict[str, list[int]] = field(default_factory=dict)

    @property
    def sizes(self) -> AttentionSizes:
        *leading, queries, width = self.query.shape
        return AttentionSizes(tuple(leading), queries, self.key.shape[-2], width, self.value.shape[-1])

    def expected(self) -> Tensor:
        tensors = (self.query.double(), self.key.double(), self.value.double())
        mask = None if self.mask is None else self.mask.double()
        return attention(*tensors, mask, self.lengths, self.scale, self.causal)


def stored(tensor: Tensor, order: list[int], offset: int) -> tuple[Tensor, Operand]:
    """``tensor`` with its axes laid out in ``order`` behind so many other elements: the memory, and where it lies."""
    moved = tensor.permute(order).contiguous()
    memory = torch.cat([torch.full((offset,), math.nan), moved.reshape(-1)])
    strides = moved.permute([order.index(axis) for axis in range(tensor.dim())]).stride()
    return memory, Operand(tuple(memory.shape), tuple(strides), offset)


def repeated(tensor: Tensor, rank: int) -> Operand:
    """Where a tensor lies along whose axes of one element everything else is repeated."""
    strides = [0 if size == 1 else step for size, step in zip(tensor.shape, tensor.stride(), strict=True)]
    return Operand(tuple(tensor.shape), (*[0] * (rank - tensor.dim()), *strides))


def attend(case: Case, target: str = "llvm", tiling: AttentionTiling | None = None) -> Tensor:
    """The kernel's value; the tiling is the one that is chosen if none is given."""
    rank = case.query.dim()
    memories: list[Tensor] = []
    places: dict[str, Any] = {}
    for label in ("query", "key", "value"):
        order = case.orders.get(label, list(range(rank)))
        memory, places[label] = stored(getattr(case, label), order, 3 * len(memories))
        memories.append(memory)
    for label, own_rank in (("mask", rank), ("lengths", rank - 2), ("query_lengths", rank - 2)):
        tensor = getattr(case, label)
        if tensor is not None:
            memories.append(tensor)
            places[label] = repeated(tensor, own_rank)
    out_shape = (*case.query.shape[:-1], case.value.shape[-1])
    operands = Operands(**places, out=Operand(out_shape, torch.empty(out_shape).stride()))
    return run_kernel(written(case, operands, target, tiling), target, out_shape, *memories)


def written(case: Case, operands: Operands, target: str, tiling: AttentionTiling | None) -> tirx.PrimFunc:
    unit = vector_unit(parse_target(target))
    chosen = choose_attention(case.sizes, unit, 1) if tiling is None else tiling
    products = FloatProducts(case.sizes, chosen, unit.lanes)
    return attention_kernel("attention", case.sizes, operands, case.scale, products, causal=case.causal)


def in_blocks(case: Case, target: str, panels: int) -> AttentionTiling:
    """The tiling that would be chosen, but with so many panels of keys in a block."""
    unit = vector_unit(parse_target(target))
    chosen = choose_attention(case.sizes, unit, 1)
    keys = panels * chosen.score_vectors * unit.lanes
    return chosen if keys >= case.sizes.keys else replace(chosen, keys=keys, blocks=math.ceil(case.sizes.keys / keys))


@st.composite
def attentions(draw: st.DrawFn) -> Case:
    leading = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    rank = len(leading) + 2
    queries, keys, width, features = (draw(st.integers(1, most)) for most in (30, 70, 20, 40))
    query, key, value = (torch.randn(*leading, *size) for size in ((queries, width), (keys, width), (keys, features)))
    shape = [draw(st.sampled_from([size, 1])) for size in (*leading, queries, keys)]
    mask = draw(st.sampled_from([None, torch.randn(shape), torch.randn(shape[-2:]), torch.zeros(shape)]))
    if mask is not None and draw(st.booleans()):
        mask[torch.rand(mask.shape) < 0.3] = -math.inf
    counted = torch.randint(-1, keys + 2, [draw(st.sampled_from([size, 1])) for size in leading], dtype=torch.int32)
    lengths = draw(st.sampled_from([None, counted]))
    last, before = rank - 1, rank - 2
    columns_last = st.permutations(range(last)).map(lambda order: [*order, last])
    rows_last = st.permutations([*range(before), last]).map(lambda order: [*order, before])
    orders = {
        "query": draw(st.permutations(range(rank))),
        "key": draw(columns_last | rows_last),
        "value": draw(columns_last),
    }
    return Case(query, key, value, 0.3, mask, lengths, None, draw(st.booleans()), orders)


@on_x86
@pytest.mark.parametrize("target", targets())
@settings(max_examples=15, deadline=None)
@given(attentions(), st.integers(1, 4))
def test_it_is_the_attention(target: str, case: Case, panels: int) -> None:
    """Around whole and partial tiles and blocks, of tensors wherever they lie."""
    assert_near(attend(case, target, in_blocks(case, target, panels)), case.expected(), 1e-5)


def test_it_is_the_attention_of_pytorch() -> None:
    """The reference is our own."""
    query, key, value = (torch.randn(2, 3, 20, 16) for _ in range(3))
    mask = torch.randn(3, 20, 20)
    mask[0, 3] = -math.inf
    for given_mask, causal in ((None, True), (mask, False), (None, False)):
        expected = F.scaled_dot_product_attention(
            query.double(),
            key.double(),
            value.double(),
            None if given_mask is None else mask.double(),
            is_causal=causal,
        )
        assert_near(attend(Case(query, key, value, 0.25, given_mask, causal=causal)), expected, 1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_several_tasks_for_one_matrix(causal: bool) -> None:
    query, key, value = (torch.randn(2, 300, 40) for _ in range(3))
    case = Case(query, key, value, causal=causal)
    tiling = choose_attention(case.sizes, vector_unit(parse_target("llvm")), 1)
    assert tiling.tasks > 1 and tiling.blocks > 1
    assert_near(attend(case), case.expected(), 1e-5)


def test_scores_that_rise_from_block_to_block() -> None:
    """Earlier sums become nothing beside later ones, and the other way round."""
    for slope in (1.0, -1.0):
        key = torch.ones(1, 200, 8) * torch.arange(200.0)[:, None] * slope
        case = Case(torch.ones(1, 5, 8), key, torch.randn(1, 200, 8), 1.0)
        assert_near(attend(case, tiling=in_blocks(case, "llvm", 2)), case.expected(), 1e-6)


def test_what_is_not_finite() -> None:
    """A key that is masked has no weight, a query without keys gets zeros, NaN stays in its row."""
    query, key, value = (torch.randn(1, 7, 16) for _ in range(3))
    mask = torch.zeros(7, 7)
    mask[0, 3:] = mask[1] = -torch.inf
    query[0, 2, 5] = torch.nan
    y = attend(Case(query, key, value, 0.25, mask))
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.25)
    torch.testing.assert_close(y, expected, equal_nan=True)
    assert (y[0, 1] == 0).all() and y[0, 2].isnan().all() and y[0, 3:].isfinite().all()


@pytest.mark.parametrize("place", [3, 50, 69])
@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_in_any_block(place: int, number: float) -> None:
    """As in PyTorch, whichever block of keys it is in, in a value and in a score."""
    query, key, value = (torch.randn(1, size, 8) for size in (9, 70, 70))
    key[0, place, 0] = number
    expected = F.scaled_dot_product_attention(query, key, value, scale=0.3)
    case = Case(query, key, value)
    torch.testing.assert_close(attend(case, tiling=in_blocks(case, "llvm", 1)), expected, equal_nan=True)
    key[0, place, 0] = 0.1
    value[0, place, 2] = number
    expected = F.scaled_dot_product_attention(query, key, value, scale=0.3)
    torch.testing.assert_close(attend(case, tiling=in_blocks(case, "llvm", 1)), expected, equal_nan=True)


def test_what_is_past_a_length_is_not_read() -> None:
    query, key, value = (torch.randn(3, size, 8) for size in (9, 70, 70))
    lengths = torch.tensor([0, 33, 70], dtype=torch.int32)
    for matrix, length in enumerate(lengths):
        key[matrix, length:] = value[matrix, length:] = math.nan
    case = Case(query, key, value, lengths=lengths)
    y = attend(case, tiling=in_blocks(case, "llvm", 2))
    assert (y[0] == 0).all()
    for matrix, length in ((1, 33), (2, 70)):
        expected = F.scaled_dot_product_attention(
            query[matrix], key[matrix, :length], value[matrix, :length], scale=0.3
        )
        assert_near(y[matrix], expected, 1e-5)


def test_there_are_fewer_queries_than_there_is_room_for() -> None:
    """Those that are there see what they would see alone, in the first task of a matrix and in the last."""
    query, key, value = (torch.randn(3, size, 8) for size in (600, 70, 70))
    lengths = torch.tensor([0, 257, 600], dtype=torch.int32)
    case = Case(query, key, value, query_lengths=lengths)
    assert choose_attention(case.sizes, vector_unit(parse_target("llvm")), 1).tasks > 2
    y, expected = attend(case), case.expected()
    for matrix, length in enumerate(lengths.tolist()):
        assert_near(y[matrix, :length], expected[matrix, :length], 1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_memory_does_not_grow_with_the_tokens(causal: bool) -> None:
    """What a task allocates is the same for thousands of tokens as for ten times as many."""
    unit = vector_unit(parse_target("llvm"))

    def allocated(tokens: int) -> int:
        sizes = AttentionSizes((1, 16), tokens, tokens, 64, 64)
        strides = (tokens * 64 * 16, tokens * 64, 64, 1)
        place = Operand((1, 16, tokens, 64), strides)
        products = FloatProducts(sizes, choose_attention(sizes, unit, 2), unit.lanes)
        kernel = attention_kernel("attention", sizes, Operands(*[place] * 4), 0.125, products, causal=causal)
        return scratch_bytes(kernel)

    assert allocated(31230) <= 1.1 * allocated(3123) < 1 << 20


def scratch_bytes(kernel: tirx.PrimFunc) -> int:
    """Bytes of all buffers that a kernel allocates, each once, all of 4 bytes an element."""
    sizes = re.findall(r"alloc_buffer\(\((\d+),\)", kernel.script())
    assert sizes
    return 4 * sum(map(int, sizes))
