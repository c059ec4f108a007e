"""Labels of pixels that are alike in all of several tensors."""

from __future__ import annotations

import operator
from functools import reduce

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.flat.cpu.table import Table, mixed
from haste_compiler.methods.flat.labels import MOST_COMPUTED, UNKNOWN


def join_labels_kernel(name: str, count: int, batch: int, pixels: int) -> tirx.PrimFunc:
    """The kernel (labels of ``count`` tensors, joint labels), (N, pixels) each."""

    most, of = MOST_COMPUTED

    def body(*buffers: Expr) -> None:
        *read, joint = buffers
        with T.parallel(0, batch) as image:
            start = emit.bind(image * pixels)

            def differing(first: Expr, other: Expr) -> Expr:
                return reduce(operator.or_, (each[start + first] ^ each[start + other] for each in read))

            unknown = reduce(tirx.any, (each[start] == T.int32(UNKNOWN) for each in read))
            with T.If(unknown):
                with T.Then():
                    emit.store(joint, start, T.int32(UNKNOWN))
                with T.Else():
                    table, label = Table(pixels), emit.Register(1, T.int32(0), "int32")
                    alone = emit.Register(1, T.int32(0), "int32")
                    with T.serial(0, pixels) as pixel:
                        before = emit.bind(T.max(pixel - 1, 0))
                        alike = emit.bind(differing(pixel, before) == T.int32(0))
                        with T.If(tirx.Not(tirx.all(alike, pixel > 0))), T.Then():
                            code = emit.bind(reduce(mixed, (each[start + pixel] for each in read), T.int32(0)))
                            label.set(
                                table.find(
                                    code, pixel, lambda holder: differing(pixel, holder) == T.int32(0), T.bool(True)
                                )
                            )
                        alone.add(tirx.Select(label.get() == pixel, T.int32(1), T.int32(0)))
                        emit.store(joint, start + pixel, label.get())
                    with T.If(alone.get() * of > pixels * most), T.Then():
                        emit.store(joint, start, T.int32(UNKNOWN))

    described = [(f"labels_{i}", (batch, pixels), "int32") for i in range(count)]
    return emit.kernel(name, [*described, ("joint", (batch, pixels), "int32")], body)
