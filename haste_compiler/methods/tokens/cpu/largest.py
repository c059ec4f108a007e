"""Which of many numbers are the largest, without sorting them: their least, bit by bit."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.rows import matrices_of
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr

LEAST = -(1 << 31)


def key_of(value: Expr, lanes: int) -> Expr:
    """An int32 for each number, in the same order; both zeros have the same."""
    bits = T.bind(tirx.reinterpret(_vector("int32", lanes), value))
    below = emit.splat(T.int32(LEAST), lanes) - bits
    return tirx.Select(bits < emit.splat(T.int32(0), lanes), below, bits)


def _vector(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def largest_kernel(name: str, batch: Any, rows: int, columns: int, count: int, lanes: int) -> tirx.PrimFunc:
    """The kernel (x, cut): what sets the ``count`` largest numbers of an image apart, none of them NaN.

    They are those whose ``key_of`` is more than ``cut[0]``, and of those where it is equal the first ``cut[1 + row]``
    of each row: so many in all that earlier rows and columns go first.

    Args:
        name: its symbol.
        batch: images.
        rows, columns: of an image's numbers.
        count: 1 to rows * columns.
        lanes: of a vector.
    """
    size = rows * columns

    def body(x: Expr, cut: Expr) -> None:
        with T.parallel(0, matrices_of([batch])) as image:
            start, out = emit.bind(image * size), emit.bind(image * (1 + rows))

            def number_of(first: Expr, length: int, least: Expr) -> Expr:
                """How many numbers from ``first`` on have a key of ``least`` or more."""
                found = {n: emit.Register(n, emit.splat(T.int32(0), n), "int32") for n in {lanes, 1}}

                def piece(at: Expr, n: int) -> None:
                    reaches = key_of(emit.load(x, first + at, n), n) >= emit.splat(least, n)
                    one, zero = (emit.splat(T.int32(value), n) for value in (1, 0))
                    found[n].add(tirx.Select(reaches, one, zero))

                whole = length // lanes * lanes
                emit.sweep(whole, lanes, piece)
                with T.serial(0, length - whole) as i:
                    piece(whole + i, 1)
                totals = [register.total() for register in found.values()]
                return T.bind(totals[0] if len(totals) == 1 else totals[0] + totals[1])

            # The largest key that so many numbers reach: from the sign on, each bit that leaves enough of them.
            cut_key = emit.Register(1, T.int32(LEAST), "int32")
            with T.serial(0, 32) as step:
                tried = T.bind(tirx.bitwise_xor(cut_key.get(), T.shift_left(T.int32(1), 31 - step)))
                enough = number_of(start, size, tried) >= count
                cut_key.set(tirx.Select(enough, tried, cut_key.get()))
            key = T.bind(cut_key.get())
            emit.store(cut, out, key)
            left = emit.Register(1, T.int32(count) - number_of(start, size, key + 1), "int32")
            with T.serial(0, rows) as row:
                first = emit.bind(start + row * columns)
                equal = T.bind(number_of(first, columns, key) - number_of(first, columns, key + 1))
                taken = T.bind(tirx.Min(left.get(), equal))
                emit.store(cut, out + 1 + row, taken)
                left.set(left.get() - taken)

    arguments = [("x", (batch, rows, columns), FLOAT32.dtype), ("cut", (batch, 1 + rows), "int32")]
    return emit.kernel(name, arguments, body)
