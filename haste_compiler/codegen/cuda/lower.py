"""Lowering a graph to CUDA kernels: the walk is the CPU's, the kernels and how their constants are packed are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx
from tvm import relax
from tvm.target import Target

from haste_compiler.codegen.cpu.kernels.depthwise import is_depthwise
from haste_compiler.codegen.cpu.kernels.pooling import Pooling
from haste_compiler.codegen.cpu.target import host_of, vector_unit
from haste_compiler.codegen.cuda.kernels.conv2d import add_parts_kernel, choose_tiling, conv2d_kernel, pack_filters
from haste_compiler.codegen.cuda.kernels.pointwise import (
    activation_kernel,
    depthwise_kernel,
    pack_depthwise_filters,
    pooling_kernel,
    transpose_kernel,
)
from haste_compiler.codegen.cuda.kernels.winograd import (
    CardWinograd,
    choose_winograd,
    pack_plain_filters,
    winograd_filters,
    winograd_input_kernel,
    winograd_output_kernel,
)
from haste_compiler.codegen.cuda.target import processors
from haste_compiler.codegen.cuda.tiling import Precisions
from haste_compiler.codegen.lower import Lowering
from haste_compiler.codegen.program import Lowered
from haste_compiler.codegen.walk import Value, args_of
from haste_compiler.errors import UnsupportedOperatorError
from haste_compiler.graph.geometry import ConvGeometry, window_geometry
from haste_compiler.graph.nodes import layer_name, shape_of
from haste_compiler.methods.haste.cuda.convolve import (
    choose_haste_tile,
    haste_convolve_kernel,
    merge_filters_kernel,
    merged_filters_shape,
    pack_haste_filters,
)
from haste_compiler.methods.haste.cuda.group import group_steps
from haste_compiler.methods.haste.cuda.layout import MOST_CHANNELS, group_layout
from haste_compiler.methods.haste.cuda.sums import pack_planes
from haste_compiler.passes.allow_winograd import WINOGRAD


def lower_to_cuda(gm: fx.GraphModule, target: Target, precisions: Precisions) -> Lowered:
    """Lower a graph that ``run_passes`` returned for a CUDA target.

    Args:
        gm: the graph; every node has ``meta["val"]``.
        target: a complete CUDA target.
        precisions: of the products of convolutions and linear layers; hashing and grouping are always float32.

    Raises:
        UnsupportedOperatorError: as ``lower``.
    """
    return _CudaLowering(gm, target, precisions).run()


class _CudaLowering(Lowering):
    def __init__(self, gm: fx.GraphModule, target: Target, precisions: Precisions) -> None:
        super().__init__(gm, vector_unit(host_of(target)), 1, None)
        self.processors, self.precisions = processors(target), precisions

    def _transpose_kernel(self, name: str, images: int, rows: int, columns: int, shapes: Any) -> Any:
        return transpose_kernel(name, images, rows, columns, shapes)

    def _pooling_kernel(self, name: str, pooling: Pooling, batch: int, channels: int) -> Any:
        return pooling_kernel(name, pooling, batch, channels)

    def _activation_kernel(self, name: str, shape: tuple[int, ...], activation: str) -> Any:
        return activation_kernel(name, shape, activation)

    def _join(self, node: fx.Node, parts: Sequence[Any], channels: list[int], maps: list[Any], activation: str) -> Any:
        x = parts[0] if len(parts) == 1 else self.builder.emit(relax.op.concat(list(parts), 3))
        if maps:
            scale, shift = maps
            x = self.builder.emit(relax.op.add(self.builder.emit(relax.op.multiply(x, scale)), shift))
        n, c, h, w = self._shape(node)
        return x if activation == "none" else self._activate(node, x, (n, h, w, c), activation)

    def _by_tvm(self, node: fx.Node) -> Value | None:
        return None

    _layer_norm = _softmax = _matmul = _attention = _resize = _by_tvm

    def _shuffle(self, node: fx.Node, parts: list[Any]) -> Any:
        return self._shuffle_by_operators(node, parts)

    def _product(
        self,
        kind: str,
        node: fx.Node,
        geometry: ConvGeometry,
        batch: int,
        x: Any,
        w: NDArray[np.float32],
        b: NDArray[np.float32] | None,
        shortcut: list[Any],
        activation: str,
    ) -> Any:
        layer, residual = layer_name(node), bool(shortcut)
        shape = (batch, *geometry.output_size, geometry.out_channels)
        bias = self._param(np.zeros(geometry.out_channels, np.float32) if b is None else b)
        if is_depthwise(geometry):
            return self._launch(
                ("depthwise", geometry, batch, residual, activation),
                layer,
                [x, self._param(pack_depthwise_filters(w)), bias, *shortcut],
                shape,
                lambda name: depthwise_kernel(name, geometry, batch, residual=residual, activation=activation),
            )
        precision = self.precisions.linear if kind == "linear" else self.precisions.convolution
        direct, tiling = choose_tiling(geometry, batch, self.processors, precision)
        if precision == "fp32":
            winograd = choose_winograd(geometry, batch, node.meta.get(WINOGRAD, 0), self.processors, direct)
            if winograd is not None:
                return self._winograd(node, winograd, x, w, bias, shortcut, activation)
        filters = self._param(pack_filters(w, geometry, tiling.tile, precision))
        end = [bias, *shortcut]
        whole = tiling.splits == 1
        y = self._launch(
            (kind, geometry, batch, tiling, precision, residual, activation),
            layer,
            [x, filters, *(end if whole else [])],
            shape if whole else (tiling.splits, math.prod(shape[:3]), shape[3]),
            lambda name: conv2d_kernel(
                name, geometry, batch, tiling, precision, residual=residual, activation=activation
            ),
        )
        if whole:
            return y
        return self._launch(
            ("add_parts", tiling.splits, shape, residual, activation),
            layer,
            [y, *end],
            shape,
            lambda name: add_parts_kernel(name, tiling.splits, shape, residual=residual, activation=activation),
        )

    def _winograd(
        self,
        node: fx.Node,
        winograd: CardWinograd,
        x: Any,
        w: NDArray[np.float32],
        bias: Any,
        shortcut: list[Any],
        activation: str,
    ) -> Any:
        layer, geometry = layer_name(node), winograd.geometry
        transformed = self._launch(
            ("winograd_input", winograd),
            layer,
            [x],
            (winograd.tiles, 1, 1, winograd.positions * geometry.in_channels),
            lambda name: winograd_input_kernel(name, winograd),
        )
        _, tiling = winograd.tiling(self.processors)
        filters = pack_filters(winograd_filters(w, winograd), winograd.products, tiling.tile, "fp32")
        sums = self._launch(
            ("winograd_products", winograd, tiling),
            layer,
            [transformed, self._param(filters)],
            (1, winograd.tiles, winograd.products.out_channels),
            lambda name: conv2d_kernel(name, winograd.products, winograd.tiles, tiling, "fp32", sums=True),
        )
        residual = bool(shortcut)
        return self._launch(
            ("winograd_output", winograd, residual, activation),
            layer,
            [sums, x, self._param(pack_plain_filters(w)), bias, *shortcut],
            (winograd.batch, *geometry.output_size, geometry.out_channels),
            lambda name: winograd_output_kernel(name, winograd, residual=residual, activation=activation),
        )

    def _merge(self, node: fx.Node) -> Any:
        pending = self.values[args_of(node)[1]]
        batch, channels, *size = shape_of(pending.x)
        geometry = window_geometry(channels, size, pending.args["window"])
        merge, skip, layer = pending.args["merge"], pending.args["skip"], node.meta["layer"]
        if geometry.in_channels // geometry.groups > MOST_CHANNELS:
            raise UnsupportedOperatorError(
                f"layer {layer!r} has {geometry.in_channels // geometry.groups} input channels a group: a card groups "
                f"up to {MOST_CHANNELS}; leave it dense, with layers={{{layer!r}: {{'enabled': False}}}}"
            )
        planes = self._constant(pending.args["planes"])
        norm2 = np.square(self._constant(pending.args["norm"]).astype(np.float64)).astype(np.float32)
        layout = group_layout(geometry, batch, planes.shape[0], self.processors)
        tensors = {
            "x": self._nhwc(pending.x),
            "planes": self._param(pack_planes(planes, layout)),
            "norm2": self._param(norm2),
            "settings": self.settings[layer],
        }
        for step in group_steps(layout, merge=merge, skip=skip):
            outputs = layout.tensors(*step.outputs)
            made = self._launch(
                (f"haste_{step.kind}", layout, merge, skip),
                layer,
                [tensors[name] for name in step.inputs],
                outputs,
                step.kernel,
            )
            several = len(outputs) > 1
            for index, name in enumerate(step.outputs):
                tensors[name] = self.builder.emit(relax.TupleGetItem(made, index)) if several else made
        self._register_group(node, batch, channels, merge, skip)
        self.statistics += [tensors["counts"], tensors["bound"]]
        return tensors

    def _convolve(self, node: fx.Node) -> Value:
        merged, slot, _, _, weight, bias, residual, *_, activation = args_of(node)
        grouped = self.values[merged]
        batch, geometry = shape_of(slot)[0], self._convolve_geometry(node, shape_of(slot)[-1])
        layer, precision = layer_name(node), self.precisions.convolution
        tile = choose_haste_tile(geometry, batch, self.processors, precision)
        filters = self._param(pack_haste_filters(self._constant(weight), geometry, tile, precision))
        lists = [grouped[name] for name in ("order", "coeff", "starts", "counts")]
        mixed = self._launch(
            ("haste_filters", geometry, batch, tile, precision),
            layer,
            [*lists, filters],
            merged_filters_shape(geometry, batch, tile),
            lambda name: merge_filters_kernel(name, geometry, batch, tile, precision),
        )
        b = np.zeros(geometry.out_channels, np.float32) if bias is None else self._constant(bias)
        shortcut = [] if residual is None else [self._nhwc(residual)]
        y = self._launch(
            ("haste_convolve", geometry, batch, tile, precision, bool(shortcut), activation),
            layer,
            [grouped["merged"], grouped["order"], grouped["counts"], filters, mixed, self._param(b), *shortcut],
            (batch, *geometry.output_size, geometry.out_channels),
            lambda name: haste_convolve_kernel(
                name, geometry, batch, tile, precision, residual=bool(shortcut), activation=activation
            ),
        )
        return Value(y, nhwc=True)
