"""Kernels against the reference: sizes left out, a part of the features forgotten, a row copied to another place."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.codegen.cpu.kernels.attention import Operand
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from haste_compiler.methods.tokens.cpu.copy import copy_kernel
from haste_compiler.methods.tokens.cpu.merge import MergeSizes, merge_kernel
from haste_compiler.methods.tokens.reference.merging import copy_back, merge
from tests.codegen.kernels import Arguments, build, run_kernel
from tests.methods.tokens.cpu.examples import own_and_others


def merged(x: Tensor, given_: Tensor, assignment: Tensor, slots: int, target: str) -> tuple[Tensor, Tensor]:
    """By the kernel, of an ``x`` whose tokens lie apart from each other."""
    *leading, tokens, width = x.shape
    by_length = given_.dtype == torch.int32
    memory = torch.cat([torch.full_like(x, torch.nan), x], -1)
    sizes = MergeSizes(tuple(leading), tokens, slots, width)
    place = Operand(tuple(memory.shape), memory.stride(), width)
    lanes = vector_unit(parse_target(target)).lanes
    arguments = Arguments()
    arguments.read(memory, given_, assignment)
    y, total = arguments.write((*leading, slots, width)), arguments.write((*leading, slots))
    arguments.call(build({"merge": merge_kernel("merge", sizes, place, lanes, by_length=by_length)}, target)["merge"])
    return y, total


def surjective(*shape: int, slots: int) -> Tensor:
    """An assignment under which each slot has a token."""
    order = torch.rand(shape).argsort(-1)
    return torch.where(order < slots, order, order % slots).int()


@pytest.mark.parametrize("target", own_and_others())
@settings(max_examples=4, deadline=None)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=2),
    st.integers(1, 40),
    st.sampled_from([1, 5, 37, 128, 256, 384, 389]),
    st.data(),
)
def test_means_are_weighted(target: str, leading: list[int], tokens: int, width: int, data: st.DataObject) -> None:
    slots = data.draw(st.integers(1, tokens))
    x, size = torch.randn(*leading, tokens, width), torch.randint(1, 5, (*leading, tokens)).float()
    assignment = surjective(*leading, tokens, slots=slots)
    y, total = merged(x, size, assignment, slots, target)
    expected, expected_total = merge(x, size, assignment, slots)
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(total, expected_total)
    alone = (assignment[..., None] == torch.arange(slots)).sum(-2) == 1
    assert torch.equal(y[alone], expected[alone])


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.data())
def test_heads_have_lengths(batch: int, heads: int, tokens: int, width: int, data: st.DataObject) -> None:
    """The slots of each head that have tokens are the same as without lengths."""
    x, room = torch.randn(batch, heads, tokens, width), tokens + data.draw(st.integers(0, 3))
    lengths = torch.randint(1, tokens + 1, (batch, heads), dtype=torch.int32)
    assignment = torch.stack([surjective(tokens, slots=int(length)) for length in lengths.flatten()])
    assignment = assignment.view(batch, heads, tokens)
    y, total = merged(x, lengths, assignment, room, "llvm")
    expected, expected_total = merge(x, torch.ones(batch, heads, tokens), assignment, room)
    there = torch.arange(room) < lengths[..., None]
    torch.testing.assert_close(y[there], expected[there], atol=1e-6, rtol=1e-6)
    assert torch.equal(total[there], expected_total[there])


@pytest.mark.parametrize("target", own_and_others())
@settings(max_examples=4, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=2, max_size=2), st.integers(1, 400), st.integers(1, 20), st.integers(1, 70))
def test_rows_are_copied(target: str, leading: list[int], tokens: int, slots: int, width: int) -> None:
    """To a tensor (B, N, H, D), as attention's output is read next."""
    batch, heads = leading
    y = torch.randn(batch, heads, slots, width)
    assignment = torch.randint(slots, (batch, heads, tokens), dtype=torch.int32)
    out = (batch, tokens, heads, width)
    row = heads * width
    place = Operand(out, (tokens * row, width, row, 1))
    lanes = vector_unit(parse_target(target)).lanes
    kernel = copy_kernel("copy", MergeSizes((batch, heads), tokens, slots, width), place, lanes)
    copied = run_kernel(kernel, target, out, y, assignment)
    assert torch.equal(copied.transpose(1, 2), copy_back(y, assignment))
