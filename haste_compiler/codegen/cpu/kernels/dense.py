"""A dense convolution by the algorithm that is modelled to be faster: as it is written, or Winograd's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.conv2d import (
    conv2d_arguments,
    conv_work,
    pack_bias,
    pack_filters,
    write_conv2d,
)
from haste_compiler.codegen.cpu.kernels.winograd import pack_winograd_filters, winograd_arguments, write_winograd
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import COLD_BYTES_PER_CYCLE, ConvTiling, WinogradTiling, cheapest_tiling
from haste_compiler.codegen.cpu.winograd_tiling import winograd_tilings
from haste_compiler.codegen.dynamic import Batch
from haste_compiler.codegen.element import FLOAT32, Element
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import SIZES

DenseTiling = ConvTiling | WinogradTiling
"""How a dense convolution is computed."""

TilingChoice = Callable[[ConvGeometry, int, int], DenseTiling]
"""Picks the tiling of a dense convolution, of so many images, with Winograd's tiles up to so large."""

_SURELY_FASTER = 0.85
"""Winograd's algorithm rounds more: it must be modelled to take no more than this share of the time."""

_HIDDEN = 0.6
"""Share of the time of reading filters that a plain convolution, which multiplies for longer, computes meanwhile."""


def choose_dense(
    geometry: ConvGeometry, batch: int, unit: VectorUnit, threads: int, winograd: int, element: Element = FLOAT32
) -> DenseTiling:
    """The tiling with the fewest modelled cycles.

    Args:
        geometry: the convolution.
        batch: images.
        unit: the target's vector unit.
        threads: threads that tasks are cut for.
        winograd: largest side of Winograd's tiles of outputs; 0: the convolution as it is written.
        element: of images and filters.
    """
    return cheapest_dense(geometry, batch, unit, threads, winograd, element)[1]


def cheapest_dense(
    geometry: ConvGeometry, batch: int, unit: VectorUnit, threads: int, winograd: int, element: Element = FLOAT32
) -> tuple[float, DenseTiling]:
    """The modelled cycles of the busiest thread, and the tiling that has the fewest; see ``choose_dense``."""
    cycles, direct = cheapest_tiling(conv_work(geometry, batch, element), unit, threads)
    filter_bytes = element.bytes * geometry.out_channels * geometry.in_channels // geometry.groups * geometry.taps
    cycles += (1 - _HIDDEN) * filter_bytes / COLD_BYTES_PER_CYCLE / threads
    found = [
        each
        for size in SIZES
        if size <= winograd
        for each in winograd_tilings(geometry, batch, size, unit, threads, direct)
    ]
    best, tiling = min(found, key=lambda each: each[0], default=(cycles, None))
    return (cycles, direct) if tiling is None or best > _SURELY_FASTER * cycles else (best, tiling)


def pack_dense(
    weight: NDArray[np.float32], bias: NDArray[np.float32] | None, geometry: ConvGeometry, tiling: DenseTiling
) -> list[NDArray[np.float32]]:
    """(K, C/groups, kh, kw) and (K,) or None as the kernel takes them: what comes between x and the residual."""
    tile = tiling.direct.tile if isinstance(tiling, WinogradTiling) else tiling.tile
    packed = pack_bias(bias, geometry.out_channels, geometry.groups, tile)
    filters = pack_filters(weight, geometry.groups, tile)
    if not isinstance(tiling, WinogradTiling):
        return [filters, packed]
    other = pack_bias(bias, geometry.out_channels, 1, tiling.tile)
    return [pack_winograd_filters(weight, tiling.size, tiling.tile), filters, max(packed, other, key=len)]


def dense_arguments(
    geometry: ConvGeometry, batch: Batch, tiling: DenseTiling, *, residual: bool = False
) -> list[tuple[str, tuple[Any, ...], str]]:
    """(name, shape, dtype) of what the kernel takes: x first, then what ``pack_dense`` returns, y last."""
    if isinstance(tiling, WinogradTiling):
        return winograd_arguments(geometry, batch, tiling, residual=residual)
    return conv2d_arguments(geometry, batch, tiling.tile, residual=residual)


def dense_kernel(
    name: str,
    geometry: ConvGeometry,
    batch: Batch,
    tiling: DenseTiling,
    *,
    residual: bool = False,
    activation: str = "none",
) -> tirx.PrimFunc:
    """The kernel (x NHWC, packed weights[, residual NHWC], y NHWC)."""

    def body(*buffers: Expr) -> None:
        write_dense(geometry, batch, tiling, activation, list(buffers))

    return emit.kernel(name, dense_arguments(geometry, batch, tiling, residual=residual), body)


def write_dense(
    geometry: ConvGeometry, batch: Batch, tiling: DenseTiling, activation: str, buffers: list[Expr]
) -> None:
    """Emit the convolution of ``buffers``, those of ``dense_arguments``, into the kernel that is being built."""
    if isinstance(tiling, WinogradTiling):
        write_winograd(geometry, batch, tiling, activation, buffers)
    else:
        write_conv2d(geometry, batch, tiling, activation, buffers)
