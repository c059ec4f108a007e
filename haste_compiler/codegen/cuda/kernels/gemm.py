"""One block's part of a matrix product: a pipeline of copies into shared memory, and sums in registers.

The first matrix lies in shared memory row by row, a step of its depth long; the second row by row as well. A warp reads
both without meeting a bank twice, whether its threads multiply or its tensor cores do. For TF32 the second matrix, the
filters, is rounded before (``round_filters``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cuda import emit
from haste_compiler.codegen.cuda.kernels import intrinsics
from haste_compiler.codegen.cuda.precision import Precision
from haste_compiler.codegen.cuda.tiling import DEPTH, GemmTile
from haste_compiler.codegen.emit import Expr, bind

Fill = Callable[[Expr, Expr], None]
"""Begins the copies of a step into shared memory: called with where the stage's memory starts, and the step."""

Write = Callable[[Expr, Expr, list[Expr]], None]
"""Takes neighbouring output values: their row, first column, and the values."""

_LANES_DOWN, _LANES_ACROSS, _VECTOR = 4, 8, 4
_MMA_ROWS, _MMA_COLUMNS = 16, 8
_MMA_DEPTH = {"tf32": 8, "bf16": 16}
_TF32_DROPPED_BITS = 13


def round_filters(packed: NDArray[np.float32], precision: Precision) -> NDArray[np.float32]:
    """Packed filters as ``BlockProduct`` takes them for the second matrix: for TF32 rounded to it, ties away from zero.

    Every thread that reads a filter has few products for it: rounding it there would take as long as they do.
    """
    if precision != "tf32":
        return packed
    words = packed.view(np.uint32)
    rounded = (words + np.uint32(1 << (_TF32_DROPPED_BITS - 1))) & ~np.uint32((1 << _TF32_DROPPED_BITS) - 1)
    return np.where(np.isfinite(packed), rounded.view(np.float32), packed)


class BlockProduct:
    """Emits the product of one block, within a launch of ``tile.threads``.

    Attributes:
        memory: shared memory of all stages.
    """

    def __init__(self, tile: GemmTile, precision: Precision, thread: Expr) -> None:
        self.tile, self.precision = tile, precision
        self.memory = emit.shared(tile.stages * tile.stage_floats)
        warp, self.lane = bind(thread // 32), bind(thread % 32)
        self.row0 = bind(warp // tile.warps_across * tile.warp_rows)
        self.column0 = bind(warp % tile.warps_across * tile.warp_columns)
        self.second = tile.rows * tile.row_stride
        self.sums = emit.registers(tile.warp_rows * tile.warp_columns // 32)

    def first_index(self, stage: Expr, row: Expr, depth: Expr) -> Expr:
        """Where an element of the first matrix lies."""
        return stage + row * self.tile.row_stride + depth

    def second_index(self, stage: Expr, depth: Expr, column: Expr) -> Expr:
        """Where an element of the second matrix lies."""
        return stage + self.second + depth * self.tile.column_stride + column

    def run(self, steps: Expr, fill: Fill) -> None:
        """Sum all steps. Every thread takes part, and ``fill`` begins its share of the copies."""
        tile = self.tile
        with emit.unroll(tile.warp_rows * tile.warp_columns // 32) as i:
            T.buffer_store(self.sums, T.float32(0), [i])
        for stage in range(tile.stages - 1):
            with T.If(stage < steps), T.Then():
                fill(stage * tile.stage_floats, stage)
            intrinsics.commit_copies()
        with T.serial(0, steps) as step:
            intrinsics.wait_for_copies(tile.stages - 2)
            emit.barrier()
            ahead = bind(step + tile.stages - 1)
            with T.If(ahead < steps), T.Then():
                fill(bind(ahead % tile.stages * tile.stage_floats), ahead)
            intrinsics.commit_copies()
            stage = bind(step % tile.stages * tile.stage_floats)
            if self.precision == "fp32":
                self._multiply(stage)
            else:
                self._multiply_on_tensor_cores(stage)

    def _multiply(self, stage: Expr) -> None:
        """A thread's rows are four apart, its columns come in fours that are 32 apart."""
        tile = self.tile
        rows, vectors = tile.warp_rows // _LANES_DOWN, tile.warp_columns // (_LANES_ACROSS * _VECTOR)
        columns = vectors * _VECTOR
        left, right = emit.registers(rows * _VECTOR), emit.registers(columns)
        row = bind(self.row0 + self.lane // _LANES_ACROSS)
        column = bind(self.column0 + self.lane % _LANES_ACROSS * _VECTOR)
        with emit.unroll(DEPTH // _VECTOR) as block:
            with emit.unroll(rows) as i:
                at = self.first_index(stage, row + i * _LANES_DOWN, block * _VECTOR)
                T.buffer_store(left, self.memory[T.ramp(at, 1, _VECTOR)], [T.ramp(i * _VECTOR, 1, _VECTOR)])
            with emit.unroll(_VECTOR) as k:
                with emit.unroll(vectors) as j:
                    at = self.second_index(stage, block * _VECTOR + k, column + j * _LANES_ACROSS * _VECTOR)
                    T.buffer_store(right, self.memory[T.ramp(at, 1, _VECTOR)], [T.ramp(j * _VECTOR, 1, _VECTOR)])
                with emit.unroll(rows) as i, emit.unroll(columns) as j:
                    place = i * columns + j
                    T.buffer_store(self.sums, self.sums[place] + left[i * _VECTOR + k] * right[j], [place])

    def _multiply_on_tensor_cores(self, stage: Expr) -> None:
        """16 × 8 outputs at a time; who holds what: see ``intrinsics.mma``."""
        tile, depth = self.tile, _MMA_DEPTH[self.precision]
        down, across = tile.warp_rows // _MMA_ROWS, tile.warp_columns // _MMA_COLUMNS
        held, taken = intrinsics.MMA_WORDS
        # Rounded once, when they are read, and not for each product.
        left, right = emit.registers(down * held, "uint32"), emit.registers(across * taken, "uint32")
        quad, within = bind(self.lane // 4), bind(self.lane % 4)
        with emit.unroll(DEPTH // depth) as block:

            def word(
                index: Callable[[Expr, Expr], Expr], line: Expr, place: int, round_it: Callable[[Expr], Expr]
            ) -> Expr:
                """A lane's word of a row or column: every fourth number of it for TF32, or two neighbours."""
                if self.precision == "tf32":
                    return round_it(self.memory[index(line, block * depth + within + 4 * place)])
                first = block * depth + within * 2 + 8 * place
                return intrinsics.bf16_pair(*(self.memory[index(line, k)] for k in (first, first + 1)))

            with emit.unroll(down) as i:
                # Both halves of the rows, then further along the depth.
                for register in range(held):
                    row = self.row0 + i * _MMA_ROWS + register % 2 * 8 + quad
                    value = word(partial(self.first_index, stage), row, register // 2, intrinsics.tf32_bits)
                    T.buffer_store(left, value, [i * held + register])
            with emit.unroll(across) as j:
                column = self.column0 + j * _MMA_COLUMNS + quad
                for register in range(taken):
                    value = word(lambda c, k: self.second_index(stage, k, c), column, register, intrinsics.bits)
                    T.buffer_store(right, value, [j * taken + register])
            with emit.unroll(down) as i, emit.unroll(across) as j:
                intrinsics.mma(self.precision, self.sums, (i * across + j) * 4, left, i * held, right, j * taken)

    def write(self, write: Write) -> None:
        """Hand every sum on, neighbours of a row together."""
        tile = self.tile
        if self.precision == "fp32":
            rows, vectors = tile.warp_rows // _LANES_DOWN, tile.warp_columns // (_LANES_ACROSS * _VECTOR)
            with emit.unroll(rows) as i, emit.unroll(vectors) as j:
                row = bind(self.row0 + self.lane // _LANES_ACROSS + i * _LANES_DOWN)
                column = bind(self.column0 + self.lane % _LANES_ACROSS * _VECTOR + j * _LANES_ACROSS * _VECTOR)
                first = (i * vectors + j) * _VECTOR
                write(row, column, [self.sums[first + v] for v in range(_VECTOR)])
            return
        down, across = tile.warp_rows // _MMA_ROWS, tile.warp_columns // _MMA_COLUMNS
        with emit.unroll(down) as i, emit.unroll(across) as j, emit.unroll(2) as half:
            row = bind(self.row0 + i * _MMA_ROWS + half * 8 + self.lane // 4)
            column = bind(self.column0 + j * _MMA_COLUMNS + self.lane % 4 * 2)
            first = (i * across + j) * 4 + half * 2
            write(row, column, [self.sums[first], self.sums[first + 1]])
