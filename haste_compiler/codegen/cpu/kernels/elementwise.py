"""Activations that stand alone, over a whole tensor in any layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import apply_activation
from haste_compiler.codegen.cpu.kernels.rows import TASK_FLOATS
from haste_compiler.codegen.dynamic import DynamicBatch, images_of
from haste_compiler.codegen.emit import Expr


def activation_kernel(name: str, shape: Sequence[Any], activation: str, lanes: int) -> tirx.PrimFunc:
    """The kernel (x, y), both of ``shape``; with a dynamic batch, image by image."""
    dynamic = isinstance(shape[0], DynamicBatch)
    size = math.prod(shape[1:] if dynamic else shape)
    task_floats = min(TASK_FLOATS, max(lanes, size))
    whole = size // task_floats

    def body(x: Expr, y: Expr) -> None:
        def apply(start: Expr, floats: int) -> None:
            def piece(i: Expr, n: int) -> None:
                emit.store(y, start + i, apply_activation(emit.load(x, start + i, n), activation, n), n)

            emit.sweep(floats, lanes, piece)

        images = emit.bind(images_of(shape[0])) if dynamic else 1
        if whole:
            with T.parallel(0, images * whole) as task:
                apply(emit.bind(task // whole * size + task % whole * task_floats), task_floats)
        if size % task_floats:
            # One image's rest is not worth waking threads for.
            with (T.parallel if dynamic else T.serial)(0, images) as image:
                apply(emit.bind(image * size + whole * task_floats), size % task_floats)

    return emit.kernel(name, [("x", shape, "float32"), ("y", shape, "float32")], body)
