"""From the FX graph to one TVM module: every node becomes a call of a kernel of ours, or TVM's own operator.

Here are the convolutions and linear layers, dense ones and HASTE's.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from tvm import ir, relax

from haste_compiler.codegen.cpu.kernels.conv2d import pack_bias
from haste_compiler.codegen.cpu.kernels.dense import DenseTiling, choose_dense, dense_kernel, pack_dense
from haste_compiler.codegen.cpu.kernels.depthwise import depthwise_kernel, is_depthwise, pack_depthwise_filters
from haste_compiler.codegen.cpu.kernels.sparse_input import sparse_input_kernel, sparse_input_tiling
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.dynamic import Batch, BatchRange, DynamicBatch, hint_of
from haste_compiler.codegen.operators import Operators
from haste_compiler.codegen.program import HasteGroup, Lowered
from haste_compiler.codegen.walk import Value, args_of, unsupported
from haste_compiler.graph.geometry import ConvGeometry, window_geometry
from haste_compiler.graph.nodes import layer_name, shape_of
from haste_compiler.methods.haste.cpu.convolve import (
    choose_haste_tiling,
    haste_convolve_kernel,
    pack_haste_filters,
    pack_tap_sums,
)
from haste_compiler.methods.haste.cpu.group import group_layout, haste_group_kernel, pack_hyperplanes
from haste_compiler.methods.haste.ops.convolve import CONVOLVE
from haste_compiler.methods.haste.ops.group import GROUP
from haste_compiler.methods.haste.ops.hash import HASH
from haste_compiler.methods.haste.ops.merge import MERGE
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.ops.linear import LINEAR
from haste_compiler.passes.allow_winograd import WINOGRAD

haste = torch.ops.haste

TilingChoice = Callable[[ConvGeometry, int, int], DenseTiling]
"""Picks the tiling of a dense convolution, of so many images, with Winograd's tiles up to so large: the model's choice,
or what tuning measured."""


@dataclass
class _Grouping:
    """What ``convolve`` needs of the grouping before it; with a gate also what was chosen and the input, NHWC."""

    tensors: list[Any]
    index: int
    chosen: list[Any]


@dataclass
class _Pending:
    """A grouping of which hash and group were seen, but not yet merge."""

    x: fx.Node
    args: dict[str, Any] = field(default_factory=dict)


def lower(
    gm: fx.GraphModule,
    unit: VectorUnit,
    threads: int,
    choose: TilingChoice | None = None,
    batch: BatchRange | None = None,
) -> Lowered:
    """Lower a graph that ``run_passes`` returned.

    Args:
        gm: the graph; every node has ``meta["val"]``.
        unit: the target's vector unit.
        threads: threads that tasks are cut for.
        choose: tiling of dense convolutions; None: the model's choice.
        batch: the batches that the graph was captured for; None: one.

    Raises:
        UnsupportedOperatorError: an operator that neither we nor TVM can lower; the message names it and its layer.
    """
    return Lowering(gm, unit, threads, choose, batch).run()


class Lowering(Operators):
    """A CPU's kernels of all operators; another target's override the methods that emit them."""

    def __init__(
        self,
        gm: fx.GraphModule,
        unit: VectorUnit,
        threads: int,
        choose: TilingChoice | None,
        batch: BatchRange | None = None,
    ) -> None:
        super().__init__(gm, unit, threads, batch)
        self.choose = choose or (
            lambda geometry, batch, winograd: choose_dense(geometry, batch, unit, threads, winograd)
        )

    def _conv2d(self, node: fx.Node) -> Value | None:
        x, weight, bias, residual, stride, padding, dilation, groups, activation = args_of(node)
        if shape_of(x)[0] == 0:
            return None
        w = self._constant(weight)
        b = None if bias is None else self._constant(bias)
        window = (w.shape[2:], stride, padding, dilation, groups, (1, 1))
        geometry = window_geometry(shape_of(x)[1], shape_of(x)[2:], window, w.shape[0])
        shortcut = [] if residual is None else [self._nhwc(residual)]
        y = self._product("conv2d", node, geometry, self._shape(x)[0], self._nhwc(x), w, b, shortcut, activation)
        return Value(y, nhwc=True)

    def _linear(self, node: fx.Node) -> Value | None:
        x, weight, bias, residual, activation = args_of(node)
        shape, filters = self._shape(x), shape_of(weight)[0]
        batch, *rest = shape if isinstance(shape[0], DynamicBatch) else (1, *shape)
        rows = math.prod(rest[:-1])
        if rows == 0:
            return None
        w = self._constant(weight)[:, :, None, None]
        b = None if bias is None else self._constant(bias)
        geometry = ConvGeometry(shape[-1], filters, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (1, rows), (1, 1))

        def flat(source: Any, channels: int) -> Any:
            return self._reshaped(self._nchw(source), (batch, 1, rows, channels))

        shortcut = [] if residual is None else [flat(residual, filters)]
        y = self._product("linear", node, geometry, batch, flat(x, shape[-1]), w, b, shortcut, activation)
        return Value(self._reshaped(y, (*shape[:-1], filters)))

    def _product(
        self,
        kind: str,
        node: fx.Node,
        geometry: ConvGeometry,
        batch: Any,
        x: Any,
        w: NDArray[np.float32],
        b: NDArray[np.float32] | None,
        shortcut: list[Any],
        activation: str,
    ) -> Any:
        """``activation(x * w + b + shortcut)``, a convolution or a linear layer (``kind``); ``x`` and result NHWC."""
        residual = bool(shortcut)
        if is_depthwise(geometry):
            bias = np.zeros(geometry.out_channels, np.float32) if b is None else b
            constants = [pack_depthwise_filters(w), bias]
            key: tuple[Any, ...] = ("depthwise", geometry, batch, residual, activation)

            def build(symbol: str) -> Any:
                return depthwise_kernel(
                    symbol, geometry, batch, self.unit, self.threads, residual=residual, activation=activation
                )
        else:
            tiling = self.choose(geometry, hint_of(batch), node.meta.get(WINOGRAD, 0))
            constants = pack_dense(w, b, geometry, tiling)
            sparse = sparse_input_tiling(geometry, batch, tiling, w)
            key = (kind, geometry, batch, tiling, residual, activation, sparse is not None)

            def build(symbol: str) -> Any:
                if sparse is not None:
                    return sparse_input_kernel(symbol, geometry, sparse, residual=residual, activation=activation)
                return dense_kernel(symbol, geometry, batch, tiling, residual=residual, activation=activation)

        args = [x, *map(self._param, constants), *shortcut]
        return self._launch(key, layer_name(node), args, (batch, *geometry.output_size, geometry.out_channels), build)

    # HASTE: hash and group are remembered, merge launches the first kernel, convolve the second

    def _hash(self, node: fx.Node) -> Any:
        x, planes, _, *window = args_of(node)
        return _Pending(x, {"planes": planes, "window": window})

    def _group(self, node: fx.Node) -> Any:
        codes, norm, merge, skip = args_of(node)[1], args_of(node)[2], args_of(node)[-2], args_of(node)[-1]
        pending = self.values[codes]
        return _Pending(pending.x, {**pending.args, "norm": norm, "merge": merge, "skip": skip})

    def _getitem(self, node: fx.Node) -> Any:
        source, index = args_of(node)
        value = self.values[source]
        if isinstance(value, _Pending):
            return value
        if not isinstance(value.expr.ty, ir.TupleType):
            raise unsupported(source, "TVM gives only its first result")
        return Value(self.builder.emit(relax.TupleGetItem(value.expr, index)))

    def _merge(self, node: fx.Node) -> Any:
        pending = self.values[args_of(node)[1]]
        args = pending.args
        batch, channels, *size = self._shape(pending.x)
        geometry = window_geometry(channels, size, args["window"])
        lanes, merge, skip = self.unit.lanes, args["merge"], args["skip"]
        planes = pack_hyperplanes(self._constant(args["planes"]))
        norm2 = np.square(self._constant(args["norm"]).astype(np.float64)).astype(np.float32)
        layout = group_layout(geometry, batch, lanes).tensors()
        layer, gate = node.meta["layer"], node.meta.get("gate")
        gated = gate is not None
        x = self._nhwc(pending.x)
        key = ("haste_group", geometry, batch, merge, skip, gated)
        grouped = self._launch(
            key,
            layer,
            [
                x,
                self._param(planes),
                self._param(norm2),
                self.settings[layer],
                *([self._param(np.array(gate, np.float32))] if gated else []),
            ],
            [*layout, *([("chosen", (1,), "int32")] if gated else [])],
            lambda symbol: haste_group_kernel(
                symbol, geometry, batch, lanes, merge=merge, skip=skip, planes=planes.shape[0], gated=gated
            ),
        )
        tensors = [self.builder.emit(relax.TupleGetItem(grouped, i)) for i in range(len(layout) + gated)]
        self._register_group(node, batch, channels, merge, skip, gated)
        *handed_on, counts, bound = tensors[: len(layout)]
        chosen = tensors[len(layout) :]
        self.statistics += [counts, bound, *chosen]
        return _Grouping([*handed_on, counts], len(self.groups) - 1, [*chosen, x] if gated else [])

    def _register_group(
        self, node: fx.Node, batch: Batch, channels: int, merge: str, skip: str, gated: bool = False
    ) -> None:
        """Remember a grouping, by its call of ``merge``, and the layers that share it."""
        convolves = [user for user in node.users if user.target is CONVOLVE]
        names = [layer_name(user) for user in convolves]
        geometries = [self._convolve_geometry(user, channels) for user in convolves]
        settings = [
            args_of(node_)[2]
            for node_ in self.gm.graph.nodes
            if node_.target is HASH and node_.meta["layer"] == node.meta["layer"]
        ]
        initial = tuple(float(number) for number in self._constant(settings[0]))
        assert len(initial) == 3
        self.groups.append(
            HasteGroup(
                tuple(names), tuple(geometries), hint_of(batch), merge, skip, node.meta["nonzeros"], initial, gated
            )
        )

    def _convolve_geometry(self, node: fx.Node, channels: int) -> ConvGeometry:
        _, _, _, _, weight, _, _, size, stride, padding, dilation, groups, patch, _ = args_of(node)
        filters, _, *kernel = shape_of(weight)
        return window_geometry(channels, size, (kernel, stride, padding, dilation, groups, patch), filters)

    def _convolve(self, node: fx.Node) -> Value:
        merged, slot, _, _, weight, bias, residual, *_, activation = args_of(node)
        grouping = self.values[merged]
        batch, channels = self._shape(slot)[0], shape_of(slot)[-1]
        geometry, group = self._convolve_geometry(node, channels), self.groups[grouping.index]
        tiling = choose_haste_tiling(geometry, hint_of(batch), self.unit, self.threads)
        w = self._constant(weight)
        b = None if bias is None else self._constant(bias)
        dense, plain = None, []
        if group.gated:
            dense = self.choose(geometry, hint_of(batch), node.meta[WINOGRAD])
            plain = [*grouping.chosen, *map(self._param, pack_dense(w, b, geometry, dense))]
        args = [
            *plain,
            *grouping.tensors,
            self._param(pack_haste_filters(w, geometry.groups, tiling.tile)),
            self._param(pack_tap_sums(w, geometry.groups, tiling.tile)),
            self._param(pack_bias(b, geometry.out_channels, geometry.groups, tiling.tile)),
        ]
        if residual is not None:
            args.append(self._nhwc(residual))
        key = ("haste_convolve", geometry, batch, tiling, group.skip, residual is not None, activation, dense)
        y = self._launch(
            key,
            layer_name(node),
            args,
            (batch, *geometry.output_size, geometry.out_channels),
            lambda symbol: haste_convolve_kernel(
                symbol,
                geometry,
                batch,
                self.unit.lanes,
                tiling,
                skip=group.skip,
                residual=residual is not None,
                activation=activation,
                dense=dense,
            ),
        )
        return Value(y, nhwc=True)

    rules: ClassVar[dict[Any, Callable[..., Any]]] = {
        **Operators.rules,
        CONV2D: _conv2d,
        LINEAR: _linear,
        HASH: _hash,
        GROUP: _group,
        MERGE: _merge,
        CONVOLVE: _convolve,
        operator.getitem: _getitem,
    }
