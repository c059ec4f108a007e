"""Activations that stand alone, over a whole tensor in any layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import apply_activation
from haste_compiler.codegen.cpu.kernels.rows import TASK_VALUES
from haste_compiler.codegen.dynamic import DynamicBatch, images_of
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr


def activation_kernel(name: str, shape: Sequence[Any], activation: str, lanes: int) -> tirx.PrimFunc:
    """The kernel (x, y), both of ``shape``; with a dynamic batch, image by image."""
    dynamic = isinstance(shape[0], DynamicBatch)
    size = math.prod(shape[1:] if dynamic else shape)
    task_values = min(TASK_VALUES, max(lanes, size))
    whole = size // task_values

    def body(x: Expr, y: Expr) -> None:
        def apply(start: Expr, values: int) -> None:
            def piece(i: Expr, n: int) -> None:
                emit.store(y, start + i, apply_activation(emit.load(x, start + i, n), activation, n), n)

            emit.sweep(values, lanes, piece)

        images = emit.bind(images_of(shape[0])) if dynamic else 1
        if whole:
            with T.parallel(0, images * whole) as task:
                apply(emit.bind(task // whole * size + task % whole * task_values), task_values)
        if size % task_values:
            # One image's rest is not worth waking threads for.
            with (T.parallel if dynamic else T.serial)(0, images) as image:
                apply(emit.bind(image * size + whole * task_values), size % task_values)

    return emit.kernel(name, [("x", shape, FLOAT32.dtype), ("y", shape, FLOAT32.dtype)], body)
