"""The assignment of tokens to slots: those that are kept, numbered in order."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.rows import matrices_of
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.tokens.cpu.largest import key_of


def number_kernel(name: str, leading: tuple[Any, int], tokens: int, *, chosen_merge: bool | None) -> tirx.PrimFunc:
    """The kernel (nearest, order, [score, cut], assignment, lengths): ``reference.merging.number_slots``.

    Args:
        name: its symbol.
        leading: images and heads.
        tokens: of a head.
        chosen_merge: of the sources, those with the largest scores, whom ``cut`` of ``largest_kernel`` sets apart, are
            all that merge; False: all that don't. None: every source merges, and both tensors are left out.
    """
    batch, heads = leading

    def body(nearest: Expr, order: Expr, *rest: Expr) -> None:
        *chosen, assignment, lengths = rest
        with T.parallel(0, matrices_of(leading)) as matrix:
            start = emit.bind(matrix * tokens)
            destination = T.alloc_buffer((tokens,), "int32")
            slots = T.alloc_buffer((tokens,), "int32")
            count, equal = (emit.Register(1, T.int32(0), "int32") for _ in range(2))
            with T.serial(0, tokens) as token:
                to = T.bind(order[nearest[start + token]])
                kept = T.bind(_number(to == token))
                if chosen:
                    score, cut = chosen
                    at = emit.bind(matrix // heads * (1 + heads))
                    key, least = T.bind(key_of(score[start + token], 1)), T.bind(cut[at])
                    is_equal = T.bind(_number(key == least))
                    is_early = T.bind(_number(equal.get() < cut[at + 1 + matrix % heads]))
                    is_chosen = T.bind(tirx.Select(key > least, T.int32(1), is_equal * is_early))
                    equal.add(is_equal)
                    kept = T.bind(tirx.Max(kept, 1 - is_chosen if chosen_merge else is_chosen))
                emit.store(slots, token, count.get())
                emit.store(destination, token, tirx.Select(kept == 1, token, to))
                count.add(kept)
            emit.store(lengths, matrix, count.get())
            with T.serial(0, tokens) as token:
                emit.store(assignment, start + token, slots[destination[token]])

    out = (batch, heads, tokens)
    chosen_arguments = [("score", out, FLOAT32.dtype), ("cut", (batch, 1 + heads), "int32")]
    arguments = [
        ("nearest", out, "int32"),
        ("order", (tokens,), "int32"),
        *([] if chosen_merge is None else chosen_arguments),
        ("assignment", out, "int32"),
        ("lengths", (batch, heads), "int32"),
    ]
    return emit.kernel(name, arguments, body)


def _number(condition: Expr) -> Expr:
    """One where it is true, else zero."""
    return tirx.Select(condition, T.int32(1), T.int32(0))
