"""One block's part of a matrix product: a pipeline of copies into shared memory, and sums in registers.

The first matrix lies in shared memory row by row, a step of its depth long; the second row by row as well. A warp reads
both without meeting a bank twice, whether its threads multiply or its tensor cores do.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu.emit import Expr, bind
from haste_compiler.codegen.cuda import emit, intrinsics
from haste_compiler.codegen.cuda.tiling import DEPTH, GemmTile, Precision

Fill = Callable[[Expr, Expr], None]
"""Begins the copies of a step into shared memory: called with where the stage's memory starts, and the step."""

Write = Callable[[Expr, Expr, list[Expr]], None]
"""Takes neighbouring output values: their row, first column, and the values."""

_LANES_DOWN, _LANES_ACROSS, _VECTOR = 4, 8, 4
_MMA_ROWS, _MMA_COLUMNS = 16, 8
_MMA_DEPTH = {"tf32": 8, "bf16": 16}


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
        held, taken = depth // 2, depth // 4
        left, right = emit.registers(down * held), emit.registers(across * taken)
        quad, within = bind(self.lane // 4), bind(self.lane % 4)

        def column_of(index: int) -> Expr:
            """Depth of a lane's ``index``-th number of a row: neighbours for bfloat16, four apart for TF32."""
            if self.precision == "tf32":
                return within + 4 * index
            return within * 2 + index % 2 + 8 * (index // 2)

        # A lane's numbers in the order of its registers: (row half, index along the depth).
        order = (
            [(0, 0), (1, 0), (0, 1), (1, 1)]
            if self.precision == "tf32"
            else [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
        )
        with emit.unroll(DEPTH // depth) as block:
            with emit.unroll(down) as i:
                for register, (half, index) in enumerate(order):
                    row = self.row0 + i * _MMA_ROWS + half * 8 + quad
                    value = self.memory[self.first_index(stage, row, block * depth + column_of(index))]
                    T.buffer_store(left, value, [i * held + register])
            with emit.unroll(across) as j:
                for index in range(taken):
                    at = self.second_index(
                        stage, block * depth + column_of(index), self.column0 + j * _MMA_COLUMNS + quad
                    )
                    T.buffer_store(right, self.memory[at], [j * taken + index])
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
