"""What every kernel is written in, whatever the target: a PrimFunc from its arguments and a body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import s_tir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from haste_compiler.codegen.dynamic import DynamicBatch
from haste_compiler.codegen.element import FLOAT32

KERNEL_ATTR = "haste_kernel"
"""Attribute that marks a PrimFunc as one of ours, scheduled as it stands."""


_OPAQUE = 8
"""Relax's operator pattern for what is not to be fused."""


Expr = Any
"""A TVM expression (a loop variable, an index, a vector of lanes)."""


def kernel(name: str, arguments: Sequence[tuple[str, Sequence[Any], str]], body: Callable[..., None]) -> tirx.PrimFunc:
    """Build one PrimFunc.

    Args:
        name: its symbol.
        arguments: (name, shape, dtype) of every tensor it takes, outputs last; a size may be a ``DynamicBatch``.
        body: called with one flat (1-D) buffer for each argument; emits the code.
    """
    dynamic = any(isinstance(size, DynamicBatch) for _, shape, _ in arguments for size in shape)
    arguments = [(label, [_size(size) for size in shape], dtype) for label, shape, dtype in arguments]
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True, KERNEL_ATTR: True, "op_pattern": _OPAQUE})
        buffers = [T.arg(label, T.buffer(tuple(shape), dtype)) for label, shape, dtype in arguments]
        views = [_flat(buffer, shape, dtype) for buffer, (_, shape, dtype) in zip(buffers, arguments, strict=True)]
        # Relax's reshape analysis expects a root block.
        with T.sblock("root"):
            T.reads()
            T.writes()
            body(*views)
    func = builder.get()
    # A variable belongs to one function.
    return s_tir.renew_defs(func) if dynamic else func


def _size(size: Any) -> Any:
    return size.variable if isinstance(size, DynamicBatch) else size


def _flat(buffer: Any, shape: Sequence[Any], dtype: str) -> Any:
    size = 1
    for extent in shape:
        size *= extent
    return buffer if len(shape) == 1 else T.decl_buffer((size,), dtype, data=buffer.data)


def bind(value: Expr) -> Expr:
    """Name a value, so that it is computed once."""
    return value if isinstance(value, int) else T.bind(value)


LARGEST = float(np.finfo(np.float32).max)
"""Largest finite float32; ``x <= LARGEST`` is false for NaN and infinities."""


def splat(value: Expr, lanes: int, dtype: str = FLOAT32.dtype) -> Expr:
    """``value`` in every lane; a number of Python's becomes one of ``dtype``."""
    if isinstance(value, float):
        value = tirx.const(value, dtype)
    return value if lanes == 1 else T.broadcast(value, lanes)
