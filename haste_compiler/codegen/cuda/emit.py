"""The phrases that every CUDA kernel is written in: launches, shared memory, registers of one thread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen import emit
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr

SHARED_BYTES = 48 << 10
"""Shared memory that a block may have without asking the driver for more."""

MOST_BLOCKS = 65535
"""Blocks that a launch may have along y and z."""


def kernel(name: str, arguments: Sequence[tuple[str, Sequence[int], str]], body: Callable[..., None]) -> tirx.PrimFunc:
    """Build one PrimFunc, as ``cpu.emit.kernel`` does, that TVM takes as scheduled."""
    return emit.kernel(name, arguments, body).with_attr("tirx.is_scheduled", True)


@contextmanager
def launch(blocks: Sequence[int], threads: int) -> Iterator[tuple[list[Expr], Expr]]:
    """A launch of (up to three) ``blocks`` along x, y, z, of ``threads`` each: the block's indices and the thread's."""
    with ExitStack() as stack:
        places = [
            stack.enter_context(T.launch_thread(f"blockIdx.{axis}", count))
            for axis, count in zip("xyz", blocks, strict=False)
        ]
        thread = stack.enter_context(T.launch_thread("threadIdx.x", threads))
        yield places, thread


@contextmanager
def share(count: Expr, worker: Expr, workers: int) -> Iterator[Expr]:
    """A loop over those of ``count`` items that fall to one of ``workers``: every ``workers``-th; yields the item."""
    with T.serial(0, (count - worker + workers - 1) // workers) as step:
        yield emit.bind(step * workers + worker)


ELEMENT_THREADS = 256


def each_element(size: int, body: Callable[[Expr], None]) -> None:
    """Launch a thread for each of ``size`` elements."""
    with launch((ceil_div(size, ELEMENT_THREADS),), ELEMENT_THREADS) as ((block,), thread):
        at = emit.bind(block * ELEMENT_THREADS + thread)
        with T.If(at < size), T.Then():
            body(at)


def shared(size: int, dtype: str = FLOAT32.dtype) -> Any:
    """Memory that the block's threads share, not initialised."""
    return T.alloc_buffer((size,), dtype, scope="shared")


def registers(size: int, dtype: str = FLOAT32.dtype) -> Any:
    """Registers of one thread: only constant indices keep them there."""
    return T.alloc_buffer((size,), dtype, scope="local")


class Variable:
    """A variable of one thread."""

    def __init__(self, initial: Expr, dtype: str = FLOAT32.dtype) -> None:
        self._buffer = registers(1, dtype)
        self.set(initial)

    def set(self, value: Expr) -> None:
        """Assign."""
        T.buffer_store(self._buffer, value, [0])

    def get(self) -> Expr:
        """The value."""
        return self._buffer[0]

    def add(self, value: Expr) -> None:
        """Add in place."""
        self.set(self.get() + value)


def load_if(condition: Expr, source: Any, index: Expr) -> Expr:
    """An element, or zero where the condition doesn't hold: then nothing is read."""
    found = Variable(T.float32(0))
    with T.If(condition), T.Then():
        found.set(source[index])
    return found.get()


def barrier() -> None:
    """Wait for all threads of the block."""
    T.evaluate(T.tvm_storage_sync("shared"))


def ceil_div(size: int, step: int) -> int:
    """How many steps cover a size."""
    return math.ceil(size / step)


def unroll(count: int) -> Any:
    """A loop that the CUDA compiler unrolls, which keeps the generated source short."""
    return T.unroll(0, count, annotations={"pragma_unroll_explicit": False})
