"""A table in which numbers find the first one that is the same as they are."""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.emit import Expr

_EMPTY = -1
_SHIFT, _FACTOR = 19, 4093
"""Of as many bits the product with the factor is an int32: TVM promises LLVM that products don't overflow."""


def mixed(code: Expr, value: Expr) -> Expr:
    """A code, int32, with one more value in it."""
    low = (code & T.int32((1 << _SHIFT) - 1)) * T.int32(_FACTOR)
    return emit.bind(low ^ (code >> T.int32(_SHIFT)) ^ value)


class Table:
    """An open table of at most ``most`` numbers, emitted where it is made."""

    def __init__(self, most: int) -> None:
        self._size = 1 << (2 * most - 1).bit_length()
        self._places = T.alloc_buffer((self._size,), "int32")
        lanes = 8
        emit.sweep(self._size, lanes, lambda i, n: emit.store(self._places, i, emit.splat(T.int32(_EMPTY), n), n))

    def find(self, code: Expr, number: Expr, same: Callable[[Expr], Expr], joins: Expr) -> Expr:
        """The number that was put in first of those that are ``same``; this one where there is none.

        Args:
            code: of the number; those that are the same have the same.
            number: not negative.
            same: whether another number, an expression, is the same.
            joins: whether this number is put in where there is none.
        """
        folded = emit.bind(code ^ (code >> T.int32(8)) ^ (code >> T.int32(17)))
        place, found = emit.Register(1, dtype="int32"), emit.Register(1, dtype="int32")
        place.set(folded & T.int32(self._size - 1))
        found.set(T.int32(_EMPTY))
        with T.While(found.get() < 0):
            holder = emit.bind(self._places[place.get()])
            with T.If(holder < 0):
                with T.Then():
                    with T.If(joins), T.Then():
                        emit.store(self._places, place.get(), number)
                    found.set(number)
                with T.Else(), T.If(same(holder)):
                    with T.Then():
                        found.set(holder)
                    with T.Else():
                        place.set((place.get() + T.int32(1)) & T.int32(self._size - 1))
        return emit.bind(found.get())
