"""Bilinear resizing of NHWC images: four pixels of the input for every one of the output, channels in the lanes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.dynamic import Batch, images_of
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr


def pack_positions(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Where an axis is read: of a linear map (new size, old size), for each new pixel the first old one and the share
    of the next."""
    first = (matrix != 0).argmax(1)
    following = np.minimum(first + 1, matrix.shape[1] - 1)
    share = np.where(following > first, matrix[np.arange(len(matrix)), following], 0)
    return first.astype(np.int32), share.astype(np.float32)


def resize_kernel(
    name: str, batch: Batch, before: tuple[int, int], after: tuple[int, int], channels: int, lanes: int
) -> tirx.PrimFunc:
    """The kernel (x NHWC, rows, shares of the next rows, columns, shares of the next columns, y NHWC).

    Args:
        name: its symbol.
        batch: images.
        before, after: height and width of x and y.
        channels: of both.
        lanes: of a vector.
    """
    (height, width), (new_height, new_width) = before, after

    def body(x: Expr, rows: Expr, row_shares: Expr, columns: Expr, column_shares: Expr, y: Expr) -> None:
        with T.parallel(0, images_of(batch) * new_height) as task:
            image, row = emit.bind(task // new_height * height), emit.bind(task % new_height)
            first = emit.bind(rows[row])
            lines = [emit.bind((image + line) * width * channels) for line in (first, T.min(first + 1, height - 1))]
            with T.serial(0, new_width) as column:
                left = emit.bind(columns[column])
                places = [emit.bind(place * channels) for place in (left, T.min(left + 1, width - 1))]
                down, right = emit.bind(row_shares[row]), emit.bind(column_shares[column])
                shares = [emit.bind(a * b) for a in (1 - down, down) for b in (1 - right, right)]
                sources = [emit.bind(line + place) for line in lines for place in places]
                target = emit.bind((task * new_width + column) * channels)

                def piece(c: Expr, n: int) -> None:
                    parts = [
                        emit.load(x, source + c, n) * emit.splat(share, n)
                        for source, share in zip(sources, shares, strict=True)
                    ]
                    emit.store(y, target + c, parts[0] + parts[1] + parts[2] + parts[3], n)

                emit.sweep(channels, lanes, piece)

    arguments = [
        ("x", (batch, height, width, channels), FLOAT32.dtype),
        ("rows", (new_height,), "int32"),
        ("row_shares", (new_height,), FLOAT32.dtype),
        ("columns", (new_width,), "int32"),
        ("column_shares", (new_width,), FLOAT32.dtype),
        ("y", (batch, new_height, new_width, channels), FLOAT32.dtype),
    ]
    return emit.kernel(name, arguments, body)
