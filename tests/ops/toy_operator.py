"""``toy::cube``: third powers. All that the compiler has to know of an operator is in this file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.rows import matrices_of
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.walk import Value, Walk
from haste_compiler.graph.nodes import layer_name
from haste_compiler.ops.call import OpCall


@torch.library.custom_op("toy::cube", mutates_args=())
def toy_cube(x: Tensor, scale: float = 1.0) -> Tensor:
    """Compute ``scale * x ** 3``, of any shape."""
    return (x * x * x * scale).contiguous()


@toy_cube.register_fake
def _(x: Tensor, scale: float = 1.0) -> Tensor:
    return x.new_empty(x.shape)


CUBE = torch.ops.toy.cube.default


@dataclass(frozen=True)
class CubeCall(OpCall):
    """A call of ``toy::cube``."""

    OP: ClassVar[Any] = CUBE

    x: fx.Node
    scale: float


def third_power(value: Expr) -> Expr:
    """What is computed of a value."""
    return value * value * value


def cube_kernel(name: str, shape: Sequence[Any], scale: float, lanes: int) -> tirx.PrimFunc:
    """The kernel (x, y), both of ``shape``."""
    size = math.prod(shape[1:])

    def body(x: Expr, y: Expr) -> None:
        with T.parallel(0, matrices_of(shape[:1])) as row:

            def piece(at: Expr, n: int) -> None:
                place = emit.bind(row * size + at)
                emit.store(y, place, third_power(emit.bind(emit.load(x, place, n))) * emit.splat(scale, n), n)

            emit.sweep(size, lanes, piece)

    return emit.kernel(name, [("x", shape, FLOAT32.dtype), ("y", shape, FLOAT32.dtype)], body)


def cube(walk: Walk[Cpu], node: fx.Node) -> Value | None:
    """Third powers of float32 values, stored as they come."""
    call = CubeCall.of(node)
    if call.x.meta["val"].dtype != torch.float32:
        return None
    shape, source = walk.shape(node), walk.value(call.x)
    stored = (shape[0], *shape[2:], shape[1]) if source.nhwc else shape
    y = walk.launch(
        ("toy_cube", stored, call.scale),
        layer_name(node),
        [source.expr],
        stored,
        lambda symbol: cube_kernel(symbol, stored, call.scale, walk.machine.unit.lanes),
    )
    return Value(y, source.nhwc)


RULES: Rules = {CUBE: cube}
