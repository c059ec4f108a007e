"""The few phrases that every CPU kernel is written in: vector loads and stores, registers, loops, activations.

Kernels are built with TVM's IR builder: Python loops unroll, ``loop`` leaves a loop in the code. One small buffer per
accumulator stays in a vector register; a single large one would go to memory and cost a factor of three.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.element import FLOAT32, Element
from haste_compiler.codegen.emit import LARGEST as LARGEST
from haste_compiler.codegen.emit import Expr as Expr
from haste_compiler.codegen.emit import bind as bind
from haste_compiler.codegen.emit import kernel as kernel
from haste_compiler.codegen.emit import splat as splat

LINE_BYTES = 64
"""Of a cache line."""


def load(buffer: Any, index: Expr, lanes: int = 1) -> Expr:
    """``lanes`` consecutive elements from ``index`` on."""
    return buffer[index] if lanes == 1 else buffer[T.ramp(index, 1, lanes)]


def store(buffer: Any, index: Expr, value: Expr, lanes: int = 1, stride: int = 1) -> None:
    """Write ``lanes`` elements from ``index`` on, ``stride`` apart."""
    T.buffer_store(buffer, value, [index if lanes == 1 else T.ramp(index, stride, lanes)])


def prefetch(buffer: Any, index: Expr, *, to_write: bool = False) -> None:
    """Ask for the cache line that holds an element; one past the end does no harm.

    Args:
        buffer: what holds it.
        index: of the element.
        to_write: the line will be written.
    """
    access, keep_in_all_caches, data = T.int32(to_write), T.int32(3), T.int32(1)
    address = tirx.address_of(buffer[index])
    T.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, access, keep_in_all_caches, data))


def prefetch_elements(buffer: Any, index: Expr, count: int, element: Element) -> None:
    """Ask for the cache lines of ``count`` elements from ``index`` on."""
    of_line = LINE_BYTES // element.bytes
    for line in range(-(-count // of_line)):
        prefetch(buffer, index + line * of_line)


class Register:
    """A variable of ``lanes`` elements that LLVM keeps in a register (indices constant, under 1 KiB)."""

    def __init__(self, lanes: int, initial: Expr | float | None = None, dtype: str = FLOAT32.dtype) -> None:
        self.lanes = lanes
        self.buffer = T.alloc_buffer((lanes,), dtype)
        if initial is not None:
            self.set(splat(initial, lanes, dtype) if isinstance(initial, float) else initial)

    def set(self, value: Expr) -> None:
        """Assign."""
        store(self.buffer, 0, value, self.lanes)

    def get(self, lanes: int | None = None) -> Expr:
        """The value, or its first ``lanes`` lanes."""
        return load(self.buffer, 0, self.lanes if lanes is None else lanes)

    def add(self, value: Expr) -> None:
        """Add in place."""
        self.set(self.get() + value)

    def lane(self, index: int) -> Expr:
        """One lane as a scalar."""
        return self.buffer[index]

    def total(self) -> Expr:
        """The sum over the lanes."""
        return self.fold(operator.add)

    def fold(self, combine: Callable[[Expr, Expr], Expr]) -> Expr:
        """The lanes combined into one value: halves with halves, a shuffle each."""
        value, lanes = self.get(), self.lanes
        while lanes > 1:
            lanes //= 2
            value = T.bind(value)
            low, high = (tirx.Shuffle([value], list(range(start, start + lanes))) for start in (0, lanes))
            value = combine(low, high)
        return value


def chunks(size: int, lanes: int) -> list[tuple[int, int]]:
    """(start, lanes) pieces that cover ``size`` elements: full vectors, then the powers of two that are left."""
    pieces, start = [], 0
    while start < size:
        width = lanes
        while width > size - start:
            width //= 2
        pieces.append((start, width))
        start += width
    return pieces


def sweep(size: int, lanes: int, body: Callable[[Expr, int], None], unroll: int = 1) -> None:
    """Run ``body(start, width)`` over ``size`` elements: a loop of full vectors, then the rest in smaller ones."""
    step = lanes * unroll
    whole = size // step
    if whole:
        with T.serial(0, whole) as i:
            for u in range(unroll):
                body(i * step + u * lanes, lanes)
    for start, width in chunks(size - whole * step, lanes):
        body(whole * step + start, width)


def each_tile(size: int, length: int, is_inner: Callable[[int], bool], body: Callable[[int, Expr, Expr], None]) -> None:
    """Run ``body(known, number, start)`` for the tiles of ``length`` that cover ``size``, the last moved back to fit.

    Tiles that are ``is_inner(start)``, neighbours all, are one loop; the others, at the edges, are written out each.
    ``known`` is ``start`` as an integer, in the loop that of its first tile.
    """
    starts = [min(start, size - length) for start in range(0, size, length)]
    inner = [start for start in starts if start % length == 0 and is_inner(start)]
    for number, known in enumerate(starts):
        if known not in inner:
            body(known, number, known)
        elif known == inner[0]:
            with T.serial(0, len(inner)) as step:
                body(known, number + step, bind(known + step * length))


def transposed(rows: Sequence[Expr]) -> list[Expr]:
    """The columns of a square of vectors: log2(lanes) rounds of shuffles between pairs of rows."""
    lanes = len(rows)
    current, half = list(rows), lanes // 2
    while half:
        low = [j if not j & half else lanes + j - half for j in range(lanes)]
        high = [j + half if not j & half else lanes + j for j in range(lanes)]
        for i in range(lanes):
            if not i & half:
                pair = [current[i], current[i + half]]
                current[i], current[i + half] = T.bind(tirx.Shuffle(pair, low)), T.bind(tirx.Shuffle(pair, high))
        half //= 2
    return current


MOST_INTERLEAVED = 4
"""The most values that are worth interleaving: of more, LLVM takes many shuffles to make a vector."""


def interleaved(values: Sequence[Expr], lanes: int) -> list[Expr]:
    """Vectors of the values' first elements, then of their second ones, and so on; as many as there are values."""
    if lanes == 1:
        return list(values)
    count = len(values)
    places = [p % count * lanes + p // count for p in range(count * lanes)]
    return [tirx.Shuffle(list(values), places[at : at + lanes]) for at in range(0, count * lanes, lanes)]


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller of two indices, folded where both are constants."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else T.min(a, b)


def ceil_div(a: Expr, b: int) -> Expr:
    """How many pieces of ``b`` cover ``a``, folded where it is a constant."""
    return -(-a // b) if isinstance(a, int) else bind((a + (b - 1)) // b)


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger of two indices, folded where both are constants."""
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else T.max(a, b)
