"""Kernels against the reference: a destination that isn't the nearest, a tie broken otherwise, a token left out.

What rounding may decide either way is held against the best there is; where cosines are exact, bit by bit.
"""

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.codegen.cpu.kernels.attention import Operand
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from haste_compiler.methods.tokens.cpu.cut import Cut, cut_blocks, cut_pairs
from haste_compiler.methods.tokens.cpu.distance import distance_kernel
from haste_compiler.methods.tokens.cpu.largest import largest_kernel
from haste_compiler.methods.tokens.cpu.nearest import NearestSizes, nearest_kernel
from haste_compiler.methods.tokens.cpu.number import number_kernel
from haste_compiler.methods.tokens.reference.bipartite import match_bipartite, most_merged
from haste_compiler.methods.tokens.reference.blocks import Blocks
from haste_compiler.methods.tokens.reference.heads import match_heads, most_outliers
from haste_compiler.methods.tokens.reference.merging import copy_back, merge
from haste_compiler.methods.tokens.reference.similarity import directions
from tests.codegen.kernels import Arguments, build, run_kernel
from tests.methods.tokens.cpu.examples import any_tokens, cuts, exact, own_and_others


def nearest(x: Tensor, cut: Cut, target: str = "llvm") -> tuple[Tensor, Tensor]:
    """By token of ``x`` (*leading, N, C) the number of the nearest one, and the cosine."""
    *leading, tokens, width = x.shape
    sizes = NearestSizes.of(leading, width, cut)
    kernel = nearest_kernel("nearest", sizes, Operand(tuple(x.shape), x.stride()), vector_unit(parse_target(target)))
    arguments = Arguments()
    arguments.read(x, cut.order, cut.tasks)
    places, score = arguments.write((*leading, tokens), torch.int32), arguments.write((*leading, tokens))
    arguments.call(build({"nearest": kernel}, target)["nearest"])
    return places, score


def distance(x: Tensor, cut: Cut, places: Tensor, target: str) -> Tensor:
    sizes = NearestSizes.of(x.shape[:-2], x.shape[-1], cut)
    lanes = vector_unit(parse_target(target)).lanes
    kernel = distance_kernel("distance", sizes, Operand(tuple(x.shape), x.stride()), lanes)
    return run_kernel(kernel, target, x.shape[:-1], x, cut.order, cut.blocks, places)


def largest(x: Tensor, count: int, target: str) -> Tensor:
    """The cut of ``x`` (B, rows, columns)."""
    batch, rows, columns = x.shape
    kernel = largest_kernel("largest", batch, rows, columns, count, vector_unit(parse_target(target)).lanes)
    arguments = Arguments()
    arguments.read(x)
    cut = arguments.write((batch, 1 + rows), torch.int32)
    arguments.call(build({"largest": kernel}, target)["largest"])
    return cut


def number(
    cut: Cut, places: Tensor, score: Tensor | None, count: int, target: str, *, merge: bool = False
) -> tuple[Tensor, Tensor]:
    """Assignment and lengths of ``places`` (B, H, N)."""
    batch, heads, tokens = places.shape
    chosen: list[Any] = [] if score is None else [score, largest(score, count, target)]
    kernel = number_kernel("number", (batch, heads), tokens, chosen_merge=merge if chosen else None)
    arguments = Arguments()
    arguments.read(places, cut.order, *chosen)
    assignment, lengths = (arguments.write(shape, torch.int32) for shape in (places.shape, places.shape[:2]))
    arguments.call(build({"number": kernel}, target)["number"])
    return assignment, lengths


@pytest.mark.parametrize("target", own_and_others())
@settings(max_examples=4, deadline=None)
@given(st.integers(1, 2), st.integers(2, 60), st.integers(0, 3), st.integers(4, 40), st.integers(0, 99))
@example(1, 197, 1, 64, 0)
def test_it_is_the_bipartite_matching(
    target: str, batch: int, tokens: int, protected: int, width: int, seed: int
) -> None:
    merged = most_merged(tokens, protected) * (1 + seed % 3) // 3
    if not merged:
        return
    metric, cut = exact(batch, tokens, width, seed=seed), cut_pairs(tokens, protected, width)
    places, score = (found[:, None] for found in nearest(metric, cut, target))
    assignment, lengths = number(cut, places.contiguous(), score.contiguous(), merged, target, merge=True)
    assert torch.equal(assignment[:, 0], match_bipartite(metric, merged, protected))
    assert (lengths == tokens - merged).all()


@pytest.mark.parametrize("target", own_and_others())
@settings(max_examples=4, deadline=None)
@given(st.integers(1, 2), st.integers(1, 3), cuts(), st.integers(4, 40), st.integers(0, 99))
def test_it_is_the_matching_of_heads(
    target: str, batch: int, heads: int, blocks: Blocks, width: int, seed: int
) -> None:
    x, cut = exact(batch, heads, blocks.tokens, width, seed=seed), cut_blocks(blocks, width)
    places, _ = nearest(x, cut, target)
    assignment, lengths = number(cut, places, None, 0, target)
    expected, expected_lengths = match_heads(x, blocks, 0.0)
    assert torch.equal(assignment, expected) and torch.equal(lengths, expected_lengths)


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 3), cuts(), st.integers(1, 70), st.integers(0, 99))
@example(1, Blocks(900, 3, 0, 300, 3, 0.3, anchored=False), 64, 0)
def test_no_destination_is_nearer(heads: int, blocks: Blocks, width: int, seed: int) -> None:
    """Of tokens whose cosines aren't exact; several chunks of destinations and tasks of sources in the example."""
    x, cut = any_tokens(1, heads, blocks.tokens, width, seed=seed), cut_blocks(blocks, width)
    places, score = nearest(x, cut)
    to = torch.tensor(cut.order)[places.long()].long()
    rows = directions(x.double())
    reached = (rows * rows.gather(2, to[..., None].expand(rows.shape))).sum(-1)
    for block in blocks.cut():
        sources, destinations = torch.tensor(block.sources).long(), torch.tensor(block.destinations)
        assert (to[:, :, destinations] == destinations).all() and (score[:, :, destinations] == -math.inf).all()
        if len(sources):
            best = (rows[:, :, sources] @ rows[:, :, destinations].mT).amax(-1)
            assert torch.isin(to[:, :, sources], destinations).all()
            torch.testing.assert_close(reached[:, :, sources], best, atol=1e-6, rtol=0)
            torch.testing.assert_close(score[:, :, sources].double(), best, atol=1e-6, rtol=0)


@pytest.mark.parametrize("target", own_and_others())
@settings(max_examples=4, deadline=None)
@given(st.integers(1, 2), st.integers(1, 3), cuts(), st.integers(1, 40), st.integers(0, 99))
def test_the_farthest_stay_alone(target: str, batch: int, heads: int, blocks: Blocks, width: int, seed: int) -> None:
    """So many as are asked for, and none that is farther merges."""
    x, cut = any_tokens(batch, heads, blocks.tokens, width, seed=seed), cut_blocks(blocks, width)
    alone = min(most_outliers(heads, blocks.tokens, 0.2), batch * heads * (blocks.tokens - blocks.count))
    places, _ = nearest(x, cut, target)
    found = distance(x, cut, places, target)
    to = torch.tensor(cut.order)[places.long()]
    means, _ = merge(x.double(), torch.ones(to.shape).double(), to, blocks.tokens)
    expected = (x - copy_back(means, to)).square().sum(-1)
    expected[to == torch.arange(blocks.tokens)] = -1
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    if not alone:
        return
    assignment, lengths = number(cut, places, found, alone, target)
    assert (lengths.sum(-1) == heads * blocks.count + alone).all()
    sizes = torch.zeros(to.shape).scatter_add(-1, assignment.long(), torch.ones(to.shape))
    single = (sizes.gather(-1, assignment.long()) == 1) & (to != torch.arange(blocks.tokens))
    most = expected.flatten(1).sort(descending=True).values[:, :alone].sum(-1)
    reached = (expected * single).flatten(1).sum(-1)
    assert (reached >= most - 1e-4 * most.abs()).all()


@settings(max_examples=8, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 70))
def test_the_cut_leaves_so_many(data: st.DataObject, batch: int, rows: int, columns: int) -> None:
    """Of numbers of both signs, both zeros and infinities, many of them equal, those that sorting puts first."""
    numbers = [-math.inf, -2.5, -1e-40, -0.0, 0.0, 1.0, 1.5, math.inf]
    x = torch.tensor(numbers)[torch.randint(len(numbers), (batch, rows, columns))]
    count = data.draw(st.integers(1, rows * columns))
    cut = largest(x, count, "llvm")
    key = x.view(torch.int32).long()
    key = torch.where(key < 0, -(2**31) - key, key)
    equal = key == cut[:, :1, None]
    chosen = (key > cut[:, :1, None]) | (equal & (equal.cumsum(-1) <= cut[:, 1:, None]))
    first = x.flatten(1).sort(dim=1, descending=True, stable=True).indices[:, :count]
    expected = torch.zeros(batch, rows * columns, dtype=torch.bool).scatter(1, first, True)
    assert torch.equal(chosen.flatten(1), expected)


def test_what_is_no_number_merges_last() -> None:
    """As in the reference, and exactly as many merge as are asked for."""
    metric = exact(1, 21, 8, seed=0)
    metric[0, 2, 3] = math.nan
    metric[0, 6, 1] = math.inf
    cut = cut_pairs(21, 1, 8)
    places, score = (found[:, None].contiguous() for found in nearest(metric, cut))
    for merged in (8, 9, 10):
        assignment, _ = number(cut, places, score, merged, "llvm", merge=True)
        assert torch.equal(assignment[:, 0], match_bipartite(metric, merged, 1))
