"""Merged tokens on a CPU."""

from __future__ import annotations

from typing import Any

from torch import fx
from tvm import relax

from haste_compiler.codegen.cpu.kernels.attention import Operand
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.cpu.rules.attention import operand_of, with_rows, written
from haste_compiler.codegen.dynamic import DynamicBatch
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.values import is_float
from haste_compiler.codegen.walk import Value, Walk
from haste_compiler.graph.nodes import layer_name, shape_of
from haste_compiler.graph.views import View, contiguous_strides, written_as
from haste_compiler.methods.tokens.cpu.copy import copy_kernel
from haste_compiler.methods.tokens.cpu.cut import Cut, cut_blocks, cut_none, cut_pairs
from haste_compiler.methods.tokens.cpu.distance import distance_kernel
from haste_compiler.methods.tokens.cpu.largest import largest_kernel
from haste_compiler.methods.tokens.cpu.merge import MergeSizes, merge_kernel
from haste_compiler.methods.tokens.cpu.nearest import NearestSizes, nearest_kernel
from haste_compiler.methods.tokens.cpu.number import number_kernel
from haste_compiler.methods.tokens.ops.head_merge import HEAD_MERGE, HeadMergeCall
from haste_compiler.methods.tokens.ops.httm_match import HTTM_MATCH, HttmMatchCall
from haste_compiler.methods.tokens.ops.token_copy import TOKEN_COPY, TokenCopyCall
from haste_compiler.methods.tokens.ops.token_merge import TOKEN_MERGE, TokenMergeCall
from haste_compiler.methods.tokens.ops.tome_match import TOME_MATCH, TomeMatchCall
from haste_compiler.methods.tokens.reference.heads import most_outliers


def tome_match(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """ToMe's matching: the nearest of each token of A, then the nearest pairs of all."""
    call = TomeMatchCall.of(node)
    if not is_float(call.metric):
        return None
    *_, tokens, width = shape_of(call.metric)
    cut = cut_pairs(tokens, call.protected, width) if call.merged else cut_none(tokens)
    match = _Match(walk, node, call.metric, cut)
    order, nearest, score = match.nearest()
    numbered = match.numbered(order, nearest, score, call.merged, merge=True)
    assignment = walk.emit(relax.TupleGetItem(numbered, 0))
    return Value(walk.reshaped(assignment, walk.shape(node)))


def httm_match(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """HTTM's matching: the nearest of each token, without those that are the farthest from the mean."""
    call = HttmMatchCall.of(node)
    if not is_float(call.x):
        return None
    _, heads, tokens, width = shape_of(call.x)
    cut, alone = cut_blocks(call.blocks(tokens), width), most_outliers(heads, tokens, call.outliers)
    match = _Match(walk, node, call.x, cut)
    order, nearest, _ = match.nearest()
    distance = match.distance(order, nearest) if alone else None
    return Value(match.numbered(order, nearest, distance, alone, merge=False))


class _Match:
    """Launches the kernels of a matching.

    Args:
        walk: the walk.
        node: whose value it is.
        x: the tensor whose tokens are matched, (B, N, C) or (B, H, N, D).
        cut: how.
    """

    def __init__(self, walk: Walk[Cpu], node: fx.Node, x: fx.Node, cut: Cut) -> None:
        self.walk, self.layer, self.cut, self.unit = walk, layer_name(node), cut, walk.machine.unit
        *leading, self.tokens, width = walk.shape(x)
        self.batch, self.heads = leading[0], leading[1] if len(leading) > 1 else 1
        self.memory, self.place = _rows(walk, x)
        self.sizes = NearestSizes.of(leading, width, cut)
        self.out = (*leading, self.tokens)

    def nearest(self) -> tuple[Any, Any, Any]:
        """The order of tokens, and by token the nearest and its cosine."""
        order, tasks = self.walk.param(self.cut.order), self.walk.param(self.cut.tasks)
        nearest, score = self.walk.launch_several(
            ("token_nearest", self.sizes, self.place),
            self.layer,
            [self.memory, order, tasks],
            [("nearest", self.out, "int32"), ("score", self.out, "float32")],
            lambda symbol: nearest_kernel(symbol, self.sizes, self.place, self.unit),
        )
        return order, nearest, score

    def distance(self, order: Any, nearest: Any) -> Any:
        """How far tokens are from what they'd merge with."""
        return self.walk.launch(
            ("token_distance", self.sizes, self.place),
            self.layer,
            [self.memory, order, self.walk.param(self.cut.blocks), nearest],
            self.out,
            lambda symbol: distance_kernel(symbol, self.sizes, self.place, self.unit.lanes),
        )

    def numbered(self, order: Any, nearest: Any, score: Any, count: int, *, merge: bool) -> Any:
        """Assignment and lengths; of the tokens with the ``count`` largest scores, only they merge, or none does."""
        walk, batch, heads, tokens = self.walk, self.batch, self.heads, self.tokens
        chosen: list[Any] = []
        if count:
            by_head = walk.reshaped(score, (batch, heads, tokens))
            cut = walk.launch(
                ("token_largest", batch, heads, tokens, count),
                self.layer,
                [by_head],
                [("cut", (batch, 1 + heads), "int32")],
                lambda symbol: largest_kernel(symbol, batch, heads, tokens, count, self.unit.lanes),
            )
            chosen = [by_head, cut]
        how = merge if count else None
        return walk.launch(
            ("token_number", batch, heads, tokens, how),
            self.layer,
            [walk.reshaped(nearest, (batch, heads, tokens)), order, *chosen],
            [("assignment", (batch, heads, tokens), "int32"), ("lengths", (batch, heads), "int32")],
            lambda symbol: number_kernel(symbol, (batch, heads), tokens, chosen_merge=how),
        )


def token_merge(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """Tokens with their sizes."""
    call = TokenMergeCall.of(node)
    if not is_float(call.x, call.size):
        return None
    return _merged(walk, node, call.x, call.size, call.assignment, call.merged_to, by_length=False)


def head_merge(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """Tokens of each head, of one size."""
    call = HeadMergeCall.of(node)
    if not is_float(call.x):
        return None
    return _merged(walk, node, call.x, call.lengths, call.assignment, call.slots, by_length=True)


def _merged(
    walk: Walk[Cpu], node: fx.Node, x: fx.Node, given: fx.Node, assignment: fx.Node, slots: int, *, by_length: bool
) -> Value:
    memory, place = _rows(walk, x)
    *leading, tokens, width = walk.shape(x)
    sizes = MergeSizes(tuple(leading), tokens, slots, width)
    made = walk.launch(
        ("token_merge", sizes, place, by_length),
        layer_name(node),
        [memory, walk.nchw(given), walk.nchw(assignment)],
        [("y", (*leading, slots, width), "float32"), ("total", (*leading, slots), "float32")],
        lambda symbol: merge_kernel(symbol, sizes, place, walk.machine.unit.lanes, by_length=by_length),
    )
    return Value(made)


def token_copy(walk: Walk[Cpu], node: fx.Node) -> Value | fx.Node | None:
    """For every token the row of its slot, written as it is read next."""
    call = TokenCopyCall.of(node)
    if not is_float(call.y):
        return None
    target = with_rows(walk, node, written_as(node) or View(node, contiguous_strides(shape_of(node))))
    out = Operand(walk.shape(target.base), target.strides)
    *leading, slots, width = walk.shape(call.y)
    if isinstance(leading[0], DynamicBatch):
        # A kernel knows the batch by the shape of what it writes.
        leading[0] = out.shape[0]
    sizes = MergeSizes(tuple(leading), shape_of(node)[-2], slots, width)
    result = walk.launch(
        ("token_copy", sizes, out),
        layer_name(node),
        [walk.nchw(call.y), walk.nchw(call.assignment)],
        out.shape,
        lambda symbol: copy_kernel(symbol, sizes, out, walk.machine.unit.lanes),
    )
    return written(walk, node, target, result)


def _rows(walk: Walk[Cpu], x: fx.Node) -> tuple[Any, Operand]:
    """A tensor where it lies, if its columns are without a gap; else a copy."""
    return operand_of(walk, x, lambda _, column: column == 1)


RULES: Rules = {
    HEAD_MERGE: head_merge,
    HTTM_MATCH: httm_match,
    TOKEN_COPY: token_copy,
    TOKEN_MERGE: token_merge,
    TOME_MATCH: tome_match,
}
