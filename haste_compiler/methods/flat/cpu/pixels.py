"""Labels of a network's input: pixels find those with the same bits in a table."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import reduce

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.flat.cpu.table import Table, mixed
from haste_compiler.methods.flat.labels import LEAST_EVEN, MOST_VALUES, UNKNOWN


def label_pixels_kernel(name: str, batch: int, channels: int, size: tuple[int, int], lanes: int) -> tirx.PrimFunc:
    """The kernel (x NCHW, labels int32)."""
    height, width = size
    pixels = height * width
    least, of = LEAST_EVEN

    def body(x: Expr, labels: Expr) -> None:
        def bits(at: Expr, n: int = 1) -> Expr:
            return tirx.reinterpret("int32" if n == 1 else f"int32x{n}", emit.load(x, at, n))

        def differing(first: Expr, other: Expr, planes: Sequence[int], n: int = 1) -> Expr:
            return reduce(operator.or_, (bits(first + c * pixels, n) ^ bits(other + c * pixels, n) for c in planes))

        with T.parallel(0, batch) as image:
            start = emit.bind(image * (channels * pixels))
            base = emit.bind(image * pixels)
            even = emit.Register(lanes, emit.splat(T.int32(0), lanes), "int32")
            with T.serial(0, height) as row:
                line = emit.bind(start + row * width)

                def count(at: Expr, n: int) -> None:
                    same = T.bind(differing(line + at + 1, line + at, range(channels), n))
                    zero, one = emit.splat(T.int32(0), n), emit.splat(T.int32(1), n)
                    emit.store(even.buffer, 0, even.get(n) + tirx.Select(same == zero, one, zero), n)

                emit.sweep(width - 1, lanes, count)
            with T.If(emit.bind(even.fold(operator.add)) < -(-pixels * least // of)):
                with T.Then():
                    emit.store(labels, base, T.int32(UNKNOWN))
                with T.Else():
                    table, known = Table(MOST_VALUES), emit.Register(1, T.int32(0), "int32")
                    label = emit.Register(1, T.int32(0), "int32")
                    with T.serial(0, pixels) as pixel:
                        at = emit.bind(start + pixel)
                        # Most pixels are as the one before, and need no look into the table.
                        before = emit.bind(T.max(pixel - 1, 0))
                        alike = emit.bind(differing(at, start + before, range(channels)) == T.int32(0))
                        with T.If(tirx.Not(tirx.all(alike, pixel > 0))), T.Then():
                            code = emit.bind(
                                reduce(mixed, (bits(at + c * pixels) for c in range(channels)), T.int32(0))
                            )

                            def same(holder: Expr) -> Expr:
                                return differing(at, start + holder, range(channels)) == T.int32(0)

                            label.set(table.find(code, pixel, same, known.get() < MOST_VALUES))
                            known.add(tirx.Select(label.get() == pixel, T.int32(1), T.int32(0)))
                        emit.store(labels, base + pixel, label.get())

    arguments = [("x", (batch, channels, *size), FLOAT32.dtype), ("labels", (batch, *size), "int32")]
    return emit.kernel(name, arguments, body)
