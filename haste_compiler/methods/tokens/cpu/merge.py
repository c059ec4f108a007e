"""Means of the tokens that an assignment puts together, weighted by their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.attention import Operand
from haste_compiler.codegen.cpu.kernels.rows import UNROLL, matrices_of, places_of
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr

_COLUMNS = 128
"""The fewest features of a task, where a matrix has several."""


@dataclass(frozen=True)
class MergeSizes:
    """Sizes of a merge.

    Attributes:
        leading: of all tensors; the first may be a ``DynamicBatch``.
        tokens, slots: before and after.
        width: features of a token.
    """

    leading: tuple[Any, ...]
    tokens: int
    slots: int
    width: int


def merge_kernel(name: str, sizes: MergeSizes, x: Operand, lanes: int, *, by_length: bool) -> tirx.PrimFunc:
    """The kernel (x, size or lengths, assignment, y, total): ``reference.merging.merge``.

    Args:
        name: its symbol.
        sizes: of the tensors.
        x: where the tensor (*leading, tokens, width) lies, columns without a gap.
        lanes: of a vector.
        by_length: tokens have a size of one each, and the kernel takes how many slots a matrix has, (*leading,) int32;
            what is past these isn't written. Else it takes sizes (*leading, tokens), and writes all slots.
    """
    tokens, slots, width = sizes.tokens, sizes.slots, sizes.width
    # Parts of as many features each.
    parts = max(part for part in range(1, max(1, width // _COLUMNS) + 1) if width % part == 0)
    columns = width // parts

    def body(x_: Expr, given: Expr, assignment: Expr, y: Expr, total: Expr) -> None:
        with T.parallel(0, matrices_of(sizes.leading) * parts) as task:
            matrix, part = emit.bind(task // parts), emit.bind(task % parts)
            first = emit.bind(part * columns)
            at = emit.bind(x.at(places_of(sizes.leading, matrix)) + first)
            start, out = emit.bind(matrix * tokens), emit.bind(matrix * slots)
            count = emit.bind(given[matrix]) if by_length else slots
            totals = T.alloc_buffer((slots,), FLOAT32.dtype)

            def size_of(token: Expr) -> Expr:
                return T.float32(1) if by_length else given[start + token]

            with T.serial(0, count) as slot:
                emit.store(totals, slot, T.float32(0))
                written = emit.bind((out + slot) * width + first)
                emit.sweep(columns, lanes, lambda c, n: emit.store(y, written + c, emit.splat(0.0, n), n), UNROLL)
            with T.serial(0, tokens) as token:
                slot = emit.bind(assignment[start + token])
                emit.store(totals, slot, totals[slot] + size_of(token))
            with T.If(part == 0), T.Then(), T.serial(0, count) as slot:
                emit.store(total, out + slot, totals[slot])
            with T.serial(0, tokens) as token:
                slot = emit.bind(assignment[start + token])
                share = T.bind(size_of(token) / totals[slot])
                read, written = emit.bind(at + token * x.strides[-2]), emit.bind((out + slot) * width + first)

                def add(c: Expr, n: int) -> None:
                    value = emit.splat(share, n) * emit.load(x_, read + c, n)
                    emit.store(y, written + c, emit.load(y, written + c, n) + value, n)

                emit.sweep(columns, lanes, add, UNROLL)

    given = ("lengths", sizes.leading, "int32") if by_length else ("size", (*sizes.leading, tokens), FLOAT32.dtype)
    arguments = [
        ("x", x.shape, FLOAT32.dtype),
        given,
        ("assignment", (*sizes.leading, tokens), "int32"),
        ("y", (*sizes.leading, slots, width), FLOAT32.dtype),
        ("total", (*sizes.leading, slots), FLOAT32.dtype),
    ]
    return emit.kernel(name, arguments, body)
