"""Layers of bfloat16 on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.dynamic import hint_of
from haste_compiler.codegen.rules.products import as_rows
from haste_compiler.codegen.tables import Rules
from haste_compiler.codegen.walk import Value, Walk
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.nodes import get_tensor, layer_name
from haste_compiler.methods.bfloat16.cpu.direct import direct_kernel, pack_direct
from haste_compiler.methods.bfloat16.cpu.unit import required_unit
from haste_compiler.methods.bfloat16.cpu.winograd import pack_winograd, winograd_kernel
from haste_compiler.methods.bfloat16.ops.conv2d import BFLOAT16_CONV2D, BFloat16ConvCall
from haste_compiler.methods.bfloat16.ops.linear import BFLOAT16_LINEAR, BFloat16LinearCall
from haste_compiler.methods.bfloat16.ops.winograd import BFLOAT16_WINOGRAD, BFloat16WinogradCall
from haste_compiler.methods.quantized.cpu.direct_tiling import choose_direct
from haste_compiler.methods.quantized.cpu.winograd_tiling import choose_winograd


def conv2d(walk: Walk[Cpu], node: fx.Node) -> Value:
    """A convolution as it is written."""
    call = BFloat16ConvCall.of(node)
    residual = [] if call.residual is None else [walk.nhwc(call.residual)]
    read, batch = [walk.nhwc(call.x), *residual], walk.shape(call.x)[0]
    return Value(_direct(walk, node, call, call.geometry, batch, bits_of(walk, call.weight), read), nhwc=True)


def linear(walk: Walk[Cpu], node: fx.Node) -> Value:
    """A linear layer: a 1×1 convolution of a row of pixels."""
    call = BFloat16LinearCall.of(node)
    weight = bits_of(walk, call.weight)[:, :, None, None]
    geometry, batch, x, residual = as_rows(walk, call.x, call.residual, len(weight))
    y = _direct(walk, node, call, geometry, batch, weight, [x, *residual])
    return Value(walk.reshaped(y, walk.shape(node)))


def _direct(
    walk: Walk[Cpu],
    node: fx.Node,
    call: BFloat16ConvCall | BFloat16LinearCall,
    geometry: ConvGeometry,
    batch: Any,
    weight: NDArray[np.uint16],
    read: list[Any],
) -> Any:
    """Launch the kernel of a convolution as it is written; ``read``: its input, and its residual if it has one."""
    machine, unit = walk.machine, required_unit(walk.machine.target)
    _, tiling = choose_direct(geometry, hint_of(batch), unit, machine.unit, machine.threads)
    bias = None if call.bias is None else walk.constant(call.bias)
    x, *residual = read
    epilogue: dict[str, Any] = {"residual": bool(residual), "activation": call.activation}
    return walk.launch(
        ("bfloat16_conv2d", geometry, batch, tiling, *epilogue.values()),
        layer_name(node),
        [x, *map(walk.param, pack_direct(weight, bias, geometry, tiling, unit)), *residual],
        (batch, *geometry.output_size, geometry.out_channels),
        lambda symbol: direct_kernel(symbol, geometry, batch, tiling, unit, **epilogue),
    )


def winograd(walk: Walk[Cpu], node: fx.Node) -> Value:
    """A 3×3 convolution by Winograd's minimal filtering."""
    call, machine, unit = BFloat16WinogradCall.of(node), walk.machine, required_unit(walk.machine.target)
    geometry, batch = call.geometry, walk.shape(call.x)[0]
    _, tiling = choose_winograd(geometry, hint_of(batch), call.size, unit, machine.unit, machine.threads)
    bias = None if call.bias is None else walk.constant(call.bias)
    filters = bits_of(walk, call.transformed), bits_of(walk, call.weight)
    residual = [] if call.residual is None else [walk.nhwc(call.residual)]
    epilogue: dict[str, Any] = {"residual": bool(residual), "activation": call.activation}
    y = walk.launch(
        ("bfloat16_winograd", geometry, batch, tiling, *epilogue.values()),
        layer_name(node),
        [walk.nhwc(call.x), *map(walk.param, pack_winograd(*filters, bias, geometry, tiling, unit)), *residual],
        (batch, *geometry.output_size, geometry.out_channels),
        lambda symbol: winograd_kernel(symbol, geometry, batch, tiling, unit, **epilogue),
    )
    return Value(y, nhwc=True)


def bits_of(walk: Walk[Cpu], node: fx.Node) -> NDArray[np.uint16]:
    """The bits of a constant tensor of bfloat16, which NumPy doesn't know."""
    bits: NDArray[np.uint16] = get_tensor(walk.gm, node).detach().cpu().contiguous().view(torch.uint16).numpy()
    return bits


RULES: Rules = {BFLOAT16_CONV2D: conv2d, BFLOAT16_LINEAR: linear, BFLOAT16_WINOGRAD: winograd}
