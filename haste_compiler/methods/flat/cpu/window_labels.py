"""Labels of what is computed pixel by pixel from windows."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.tile_list import Tiles
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.flat.cpu.repeats import Repeats, label_sources
from haste_compiler.methods.flat.labels import UNKNOWN


def window_labels_kernel(name: str, geometry: ConvGeometry, batch: int) -> tirx.PrimFunc:
    """The kernel (labels, labels of the windows)."""
    pixels = geometry.output_size[0] * geometry.output_size[1]

    def body(labels: Expr, made: Expr) -> None:
        tiles = Tiles(geometry, batch, 1)
        repeats = Repeats(tiles, label_sources(tiles, labels, None))
        with T.serial(0, batch) as image:
            start = emit.bind(image * pixels)
            repeats.hold(image)
            with T.If(repeats.plain[image] == 1):
                with T.Then():
                    emit.store(made, start, T.int32(UNKNOWN))
                with T.Else(), T.serial(0, pixels) as pixel:
                    emit.store(made, start + pixel, repeats.holders[start + pixel] - start)

    arguments = [
        ("labels", (batch, *geometry.input_size), "int32"),
        ("made", (batch, *geometry.output_size), "int32"),
    ]
    return emit.kernel(name, arguments, body)
