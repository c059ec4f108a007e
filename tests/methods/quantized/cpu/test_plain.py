"""Convolutions in float32 by filters of 8 bits, a rectangle of outputs at a time."""

import pytest
import torch

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.cpu.filters import filter_layout
from haste_compiler.methods.quantized.cpu.plain import Operands, Rectangle, write_plain
from haste_compiler.methods.quantized.reference.plain import convolve_plainly
from haste_compiler.methods.quantized.weights import quantize_filters
from haste_compiler.ops.activation import apply_epilogue
from tests.codegen.cpu.test_dense import CORNERS
from tests.codegen.kernels import Arguments, build, conv_case, nchw, nhwc
from tests.methods.quantized.units import unit_of


@pytest.mark.parametrize(
    ("geometry", "unit"),
    [(CORNERS[1], "own"), (CORNERS[3], "unsigned"), (CORNERS[6], "own"), (CORNERS[7], "unsigned"), (CORNERS[5], "own")],
)
def test_a_rectangle_and_nothing_else_is_written(geometry: ConvGeometry, unit: str) -> None:
    kind, (out_h, out_w) = unit_of(unit, "llvm"), geometry.output_size
    case = conv_case(geometry, 2, bias=True, residual=True, activation="gelu")
    case.x[0, 0, 0, 0], case.x[1, -1, -1, -1] = torch.nan, torch.inf
    weight, scale = quantize_filters(case.weight)
    layout = filter_layout(geometry, kind.lanes, kind)
    row, column, first = out_h // 2, out_w // 3, layout.tiles // 2

    def body(x: Expr, filters: Expr, scale: Expr, bias: Expr, residual: Expr, y: Expr) -> None:
        operands = Operands(x, filters, scale, bias, residual, y)
        # It overhangs the output at its end.
        outputs = Rectangle(1, row, column, out_h, out_w)
        write_plain(layout, kind.lanes, "gelu", operands, outputs, (first, layout.tiles - first))

    assert case.bias is not None and case.residual is not None
    arguments = Arguments()
    packed = [layout.pack_channels(scale.numpy()), layout.pack_channels(case.bias.numpy())]
    arguments.read(nhwc(case.x), layout.pack(weight.numpy()), *packed, nhwc(case.residual))
    arguments.write(case.output_shape())
    shapes = [(f"a{i}", tuple(t.shape), str(t.dtype).split(".")[1]) for i, t in enumerate(arguments.tensors)]
    arguments.call(build({"plain": emit.kernel("plain", shapes, body)}, "llvm")["plain"])
    y = nchw(arguments.tensors[-1])

    sums = convolve_plainly(case.x, weight, scale, geometry) + case.bias[:, None, None]
    wanted = torch.full_like(y, torch.nan)
    per_group = geometry.out_channels // geometry.groups
    group, tile = divmod(first, layout.group_tiles)
    place = (1, slice(group * per_group + tile * layout.channels, None), slice(row, None), slice(column, None))
    wanted[place] = apply_epilogue(sums, case.residual, "gelu")[place]
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert y[place].isfinite().any()
