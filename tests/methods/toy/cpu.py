"""``toy::round`` on a CPU."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from torch import fx
from tvm import tirx

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.rows import each_row, fold
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.walk import Value, Walk
from haste_compiler.graph.nodes import layer_name
from haste_compiler.ops.conv2d import ConvCall
from tests.methods.toy.operator import ROUND, RoundCall
from tests.methods.toy.statistics import record_of


def nearest(value: Expr, step: Expr, lanes: int) -> Expr:
    """The nearest multiple of the step; the value itself where the step is 0."""
    steps = tirx.floor(value / step + emit.splat(0.5, lanes))
    return tirx.Select(step > emit.splat(0.0, lanes), steps * step, value)


def round_kernel(name: str, shape: Sequence[Any], lanes: int) -> tirx.PrimFunc:
    """The kernel (x, settings, zeros, y): y of x's shape, zeros (N,) how many of each image's values are 0."""
    size = math.prod(shape[1:])

    def body(x: Expr, settings: Expr, zeros: Expr, y: Expr) -> None:
        def image(number: Expr) -> None:
            def piece(at: Expr, n: int) -> Expr:
                place = emit.bind(number * size + at)
                value = emit.bind(nearest(emit.load(x, place, n), emit.splat(settings[0], n), n))
                emit.store(y, place, value, n)
                return tirx.Select(tirx.EQ(value, emit.splat(0.0, n)), emit.splat(1.0, n), emit.splat(0.0, n))

            emit.store(zeros, number, fold(size, lanes, piece, operator.add, 0.0))

        each_row(shape[:1], size, image)

    arguments = [("x", shape), ("settings", (1,)), ("zeros", shape[:1]), ("y", shape)]
    return emit.kernel(name, [(label, sizes, FLOAT32.dtype) for label, sizes in arguments], body)


def round_(walk: Walk[Cpu], node: fx.Node) -> Value:
    """Round, and count zeros, for the one convolution that reads the result."""
    call, layer, (conv,) = RoundCall.of(node), layer_name(node), node.users
    batch, channels, *size = walk.shape(call.x)
    shape = (batch, *size, channels)
    x, settings = walk.nhwc(call.x), walk.parameters_of(layer, 1)
    zeros, y = walk.launch_several(
        ("toy_round", shape),
        layer,
        [x, settings],
        [("zeros", (batch,), FLOAT32.dtype), ("y", shape, FLOAT32.dtype)],
        lambda symbol: round_kernel(symbol, shape, walk.machine.unit.lanes),
    )
    (step,) = walk.constant(call.settings).tolist()
    walk.add_record(record_of(layer, step, ConvCall.of(conv).geometry()), [zeros])
    return Value(y, nhwc=True)


RULES: Rules = {ROUND: round_}
