"""Hashing a patch's channels: which of them point the same way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.haste.cpu.patch import Patch
from haste_compiler.methods.haste.cpu.reduce import total

_VECTORS_AT_ONCE = 4


def pack_hyperplanes(planes: NDArray[np.float32]) -> NDArray[np.int32]:
    """(L, window pixels) ternary to (L, 2 + window pixels): how many +1, how many -1, then their positions."""
    table = np.zeros((planes.shape[0], 2 + planes.shape[1]), np.int32)
    for row, plane in zip(table, planes, strict=True):
        plus, minus = np.flatnonzero(plane > 0), np.flatnonzero(plane < 0)
        row[0], row[1] = len(plus), len(minus)
        row[2 : 2 + len(plus) + len(minus)] = np.concatenate([plus, minus])
    return table


def hash_channels(patch: Patch) -> None:
    """bit_l = <P_c, v_l> above its mean over the channels: the same as hashing P_c minus the mean window."""
    size, lanes, table = patch.channels, patch.lanes, patch.tensors.planes
    codes, dots = patch.scratch.codes, patch.scratch.dots
    patch.fill(codes, size, 0)
    wide = _VECTORS_AT_ONCE * lanes
    with T.serial(0, tirx.Cast("int32", patch.tensors.settings[0])) as plane:
        base = emit.bind(plane * (2 + patch.pixels))
        plus, minus = emit.bind(table[base]), emit.bind(table[base + 1])
        if size >= wide:
            with T.serial(0, size // wide) as block:
                pieces = [(block * wide + v * lanes, lanes) for v in range(_VECTORS_AT_ONCE)]
                _multiply(patch, pieces, base, plus, minus)
        rest = [(size // wide * wide + start, n) for start, n in emit.chunks(size % wide, lanes)]
        if rest:
            _multiply(patch, rest, base, plus, minus)
        mean = emit.bind(total(lambda c, n: emit.load(dots, c, n), size, lanes) * T.float32(1.0 / size))
        bit = emit.bind(T.int32(1) << plane)

        def set_bit(c: Expr, n: int, mean: Expr = mean, bit: Expr = bit) -> None:
            above = emit.load(dots, c, n) > emit.splat(mean, n)
            code = tirx.Select(above, emit.splat(bit, n), emit.splat(T.int32(0), n))
            emit.store(codes, c, emit.load(codes, c, n) + code, n)

        emit.sweep(size, lanes, set_bit)


def _multiply(patch: Patch, pieces: list[tuple[Expr, int]], base: Expr, plus: Expr, minus: Expr) -> None:
    """Products of some channels, (first, width) each, with the hyperplane whose entry in the table is at ``base``."""
    scratch = patch.scratch
    sums = [emit.Register(n) for _, n in pieces]
    for register in sums:
        register.set(emit.splat(0.0, register.lanes))
    for first, count, sign in ((base + 2, plus, 1), (base + 2 + plus, minus, -1)):
        with T.serial(0, count) as i:
            pixel = emit.bind(patch.tensors.planes[first + i])
            for register, (channel, n) in zip(sums, pieces, strict=True):
                value = emit.load(scratch.last, channel * patch.row + pixel * n, n)
                register.set(register.get() + value if sign > 0 else register.get() - value)
    for register, (channel, n) in zip(sums, pieces, strict=True):
        emit.store(scratch.dots, channel, register.get(), n)
