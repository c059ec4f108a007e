"""How far each source is from the mean of what it would merge with."""

from __future__ import annotations

import math
import operator

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.attention import Operand
from haste_compiler.codegen.cpu.kernels.rows import UNROLL, fold, matrices_of, places_of
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import LARGEST, Expr
from haste_compiler.methods.tokens.cpu.nearest import NearestSizes


def distance_kernel(name: str, sizes: NearestSizes, x: Operand, lanes: int) -> tirx.PrimFunc:
    """The kernel (x, order, blocks, nearest, distance): squares of the sources' distances, minus one for other tokens.

    Args:
        name: its symbol.
        sizes: of the tensors.
        x: where the tensor (*leading, tokens, width) lies, columns without a gap.
        lanes: of a vector.
    """
    width, tokens, (_, most) = sizes.width, sizes.tokens, sizes.most

    def body(x_: Expr, order: Expr, blocks: Expr, nearest: Expr, distance: Expr) -> None:
        with T.parallel(0, matrices_of(sizes.leading) * sizes.blocks) as number:
            matrix, block = emit.bind(number // sizes.blocks), emit.bind(number % sizes.blocks * 4)
            at = emit.bind(x.at(places_of(sizes.leading, matrix)))
            first, middle, _, end = (emit.bind(blocks[block + column]) for column in range(4))
            sums = T.alloc_buffer((most * width,), FLOAT32.dtype)
            counts = T.alloc_buffer((most,), FLOAT32.dtype)

            def row_of(place: Expr) -> tuple[Expr, Expr, Expr]:
                """A token's number among all matrices', and where its features are and those of what it goes to."""
                token = emit.bind(order[place])
                written = emit.bind(matrix * tokens + token)
                return written, emit.bind(at + token * x.strides[-2]), emit.bind(nearest[written] - first)

            with T.serial(0, middle - first) as i:
                written, read, _ = row_of(first + i)
                emit.store(distance, written, T.float32(-1))
                emit.store(counts, i, T.float32(1))
                emit.sweep(
                    width, lanes, lambda c, n: emit.store(sums, i * width + c, emit.load(x_, read + c, n), n), UNROLL
                )
            with T.serial(0, end - middle) as i:
                _, read, target = row_of(middle + i)
                emit.store(counts, target, counts[target] + T.float32(1))

                def add(c: Expr, n: int) -> None:
                    place = target * width + c
                    emit.store(sums, place, emit.load(sums, place, n) + emit.load(x_, read + c, n), n)

                emit.sweep(width, lanes, add, UNROLL)
            with T.serial(0, end - middle) as i:
                written, read, target = row_of(middle + i)
                share = T.bind(T.float32(1) / counts[target])

                def square(c: Expr, n: int) -> Expr:
                    mean = emit.load(sums, target * width + c, n) * emit.splat(share, n)
                    difference = T.bind(emit.load(x_, read + c, n) - mean)
                    return difference * difference

                found = fold(width, lanes, square, operator.add, 0.0)
                # What is no number is farther than all others.
                infinite = T.float32(math.inf)
                emit.store(distance, written, tirx.Select(found <= T.float32(LARGEST), found, infinite))

    out = (*sizes.leading, tokens)
    arguments = [
        ("x", x.shape, FLOAT32.dtype),
        ("order", (tokens,), "int32"),
        ("blocks", (sizes.blocks, 4), "int32"),
        ("nearest", out, "int32"),
        ("distance", out, FLOAT32.dtype),
    ]
    return emit.kernel(name, arguments, body)
