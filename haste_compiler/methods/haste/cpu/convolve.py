"""The second half of a HASTE convolution: merge the filters of each group, then convolve what is left.

One task is one patch and a few tiles of output channels. Channels alone in their group use their filters where they
are; dropped channels' filters are never read; a group's filters are summed once for each tile of output channels.
While some output channels are computed, the same channels' filters for the next ones are prefetched.
"""

from __future__ import annotations

import math

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.dense import DenseTiling, dense_arguments, write_dense
from haste_compiler.codegen.dynamic import Batch, images_of
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.cpu.layout import may_restore
from haste_compiler.methods.haste.cpu.merge_filters import merge_filters, start_sums
from haste_compiler.methods.haste.cpu.place import write_either
from haste_compiler.methods.haste.cpu.reduction import Reduction
from haste_compiler.methods.haste.cpu.register_tiles import convolve_tiles
from haste_compiler.methods.haste.cpu.restore import restore_windows
from haste_compiler.methods.haste.cpu.task import Convolution, ConvolveTensors, Task
from haste_compiler.methods.haste.cpu.tiling import HasteTiling


def haste_convolve_kernel(
    name: str,
    geometry: ConvGeometry,
    batch: Batch,
    tiling: HasteTiling,
    *,
    reduction: Reduction,
    residual: bool = False,
    activation: str = "none",
    dense: DenseTiling | None = None,
) -> tirx.PrimFunc:
    """The kernel (windows, order, coeff, starts, rows, counts, filters, tap sums, bias[, residual NHWC], y NHWC).

    ``dense``: the tiling of the plain convolution that is computed instead where the gate said so; the kernel then
    begins with (chosen, x NHWC, and that tiling's filters and bias).
    Where windows may have to be made again it takes x NHWC before them too, unless it takes it already.
    """

    def layer(keeps: bool) -> Convolution:
        return Convolution(geometry, batch, tiling, reduction, activation, keeps=keeps)

    arguments = layer(keeps=True).arguments(residual)

    def convolve(*buffers: Expr) -> None:
        tensors = ConvolveTensors(**dict(zip((label for label, *_ in arguments), buffers, strict=True)))
        write_either(batch, tiling.kept, lambda keeps: _convolve(layer(keeps), tensors))

    if dense is None:
        return emit.kernel(name, arguments, convolve)
    x, *weights, _ = dense_arguments(geometry, batch, dense)
    plain = [x, *((f"dense_{label}", shape, dtype) for label, shape, dtype in weights)]
    # Both ways read the images.
    images = 1 if may_restore(batch, tiling.kept) else 0

    def body(chosen: Expr, *buffers: Expr) -> None:
        inputs, merged = buffers[: len(plain)], (*buffers[:images], *buffers[len(plain) :])
        shared = merged[-2:] if residual else merged[-1:]
        with T.If(chosen[0] == 1):
            with T.Then():
                convolve(*merged)
            with T.Else():
                write_dense(geometry, batch, dense, activation, [*inputs, *shared])

    return emit.kernel(name, [("chosen", (1,), "int32"), *plain, *arguments[images:]], body)


def _convolve(layer: Convolution, tensors: ConvolveTensors) -> None:
    """All tasks, in parallel; those that read the same filters follow each other."""
    grid_h, grid_w = layer.geometry.patch_grid
    tiles = layer.channel_tiles
    patches = emit.bind(emit.bind(images_of(layer.batch)) * grid_h * grid_w)
    chunks = math.ceil(layer.k_tiles / tiles)
    with T.parallel(0, layer.geometry.groups * chunks * patches) as number:
        task = Task(layer, tensors, number, patches, chunks)
        if not layer.keeps:
            restore_windows(task)
        first = emit.bind(task.chunk * tiles)
        with T.serial(0, emit.minimum(tiles, layer.k_tiles - first)) as step:
            k_tile = emit.bind(first + step)
            packed = emit.bind(task.group * layer.k_tiles + k_tile)
            start_sums(task, packed)
            merge_filters(task, packed)
            convolve_tiles(task, k_tile, packed)
