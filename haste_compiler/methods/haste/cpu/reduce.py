"""Sums over a vector of any length."""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.emit import Expr


def total(value: Callable[[Expr, int], Expr], size: int, lanes: int) -> Expr:
    """Sum of ``value(start, width)`` over ``size`` elements, ``lanes`` at a time."""
    whole, rest = size // lanes, emit.chunks(size % lanes, lanes)
    result = emit.Register(1)
    result.set(T.float32(0))
    if whole:
        wide = emit.Register(lanes)
        wide.set(emit.splat(0.0, lanes))
        with T.serial(0, whole) as i:
            wide.add(value(i * lanes, lanes))
        result.set(wide.total())
    for start, n in rest:
        part = emit.Register(n)
        part.set(value(whole * lanes + start, n))
        result.set(result.get() + part.total())
    return result.get()
