"""From the FX graph to one TVM module: every node becomes a call of a kernel of ours, or TVM's own operator.

Activations of rank four live in NHWC from the first convolution to the last; a value remembers how it is laid out,
and is transposed only where an operator that doesn't know NHWC reads it.
"""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from tvm import ir, relax, sym
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

import haste_compiler.passes.linear  # noqa: F401  (registers torch.ops.haste.linear)
from haste_compiler.codegen.cpu.channel_shuffle import channel_shuffle_kernel
from haste_compiler.codegen.cpu.concatenation import concatenation_kernel
from haste_compiler.codegen.cpu.conv2d import pack_bias
from haste_compiler.codegen.cpu.dense import DenseTiling, choose_dense, dense_kernel, pack_dense
from haste_compiler.codegen.cpu.depthwise import depthwise_kernel, is_depthwise, pack_depthwise_filters
from haste_compiler.codegen.cpu.elementwise import activation_kernel
from haste_compiler.codegen.cpu.haste_convolve import (
    choose_haste_tiling,
    haste_convolve_kernel,
    pack_haste_filters,
    pack_tap_sums,
)
from haste_compiler.codegen.cpu.haste_group import group_layout, haste_group_kernel, pack_hyperplanes
from haste_compiler.codegen.cpu.layer_norm import layer_norm_kernel
from haste_compiler.codegen.cpu.matmul import matmul_kernel
from haste_compiler.codegen.cpu.pooling import Pooling, pooling_kernel
from haste_compiler.codegen.cpu.resize import pack_positions, resize_kernel
from haste_compiler.codegen.cpu.softmax import softmax_kernel
from haste_compiler.codegen.cpu.sparse_input import sparse_input_kernel, sparse_input_tiling
from haste_compiler.codegen.cpu.transpose import transpose_kernel
from haste_compiler.codegen.dynamic import Batch, BatchRange, DynamicBatch, hint_of
from haste_compiler.codegen.program import HasteGroup, Lowered
from haste_compiler.codegen.symbolic import SymbolicSizes, main_shape
from haste_compiler.codegen.target import VectorUnit
from haste_compiler.errors import UnsupportedOperatorError, last_line
from haste_compiler.haste.geometry import ConvGeometry, window_geometry
from haste_compiler.passes.allow_winograd import WINOGRAD
from haste_compiler.passes.fuse_epilogue import activation_name
from haste_compiler.passes.graph import argument, get_tensor, is_constant, is_tensor, shape_of
from haste_compiler.passes.resize import axis_map

aten, haste = torch.ops.aten, torch.ops.haste

TilingChoice = Callable[[ConvGeometry, int, int], DenseTiling]
"""Picks the tiling of a dense convolution, of so many images, with Winograd's tiles up to so large: the model's choice,
or what tuning measured."""


@dataclass(frozen=True)
class Value:
    """A relax expression and its layout: ``nhwc`` if a tensor that is NCHW in the graph is stored as NHWC."""

    expr: Any
    nhwc: bool = False


_RESHAPE = ir.Op.get("relax.reshape")

_BUILDING = threading.RLock()
"""TVM's builders know each other through one stack for all threads."""


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


class Lowering:
    """The walk over a graph, and the CPU's kernels; another target's override the methods that emit them."""

    def __init__(
        self,
        gm: fx.GraphModule,
        unit: VectorUnit,
        threads: int,
        choose: TilingChoice | None,
        batch: BatchRange | None = None,
    ) -> None:
        self.gm, self.unit, self.threads = gm, unit, threads
        self.sizes = SymbolicSizes(gm, batch)
        self.choose = choose or (
            lambda geometry, batch, winograd: choose_dense(geometry, batch, unit, threads, winograd)
        )
        self.builder = relax.BlockBuilder()
        self.importer = ExportedProgramImporter()
        self.importer.block_builder = self.builder
        self.values: dict[fx.Node, Any] = {}
        self.kernels: dict[tuple[Any, ...], Any] = {}
        self.launched: list[tuple[str, str]] = []
        self.groups: list[HasteGroup] = []
        self.settings: dict[str, Any] = {}
        self.constants: list[NDArray[Any]] = []
        self.constant_params: list[Any] = []
        self.statistics: list[Any] = []
        self.nodes_of_group: dict[fx.Node, list[fx.Node]] = {}

    def run(self) -> Lowered:
        """Lower the whole graph."""
        inputs, params = [], []
        for node in self.gm.graph.nodes:
            if node.op == "placeholder":
                value = node.meta["val"]
                if not isinstance(value, torch.Tensor):
                    raise UnsupportedOperatorError(
                        f"input {node.name!r} is {type(value).__name__}, only tensors are compiled"
                    )
                var = relax.Var(node.name, relax.TensorType(self.sizes.shape(node), _dtype(value.dtype)))
                self.values[node] = Value(var)
                inputs.append(var)
        for node in self.gm.graph.nodes:
            if node.op == "call_function" and node.target is haste.merge.default:
                name = f"{node.meta['layer']}.settings"
                self.settings[node.meta["layer"]] = relax.Var(name.replace(".", "_"), relax.TensorType([3], "float32"))
                params.append(self.settings[node.meta["layer"]])
        with _BUILDING, self.builder.function("main"):
            try:
                with self.builder.dataflow():
                    outputs = self._nodes()
                    result = self.builder.emit_output(relax.Tuple([*outputs, *self.statistics]))
            except BaseException:
                # What the dataflow block left open; TVM would print that it is.
                self.builder._end_block()
                raise
            self.builder.emit_func_output(result, [*inputs, *params, *self.constant_params])
        plan = repr(list(self.kernels))
        mod, batch = self.builder.finalize(), self.sizes.limited()
        return Lowered(self.constants, self.groups, len(outputs), self.launched, batch, mod, plan)

    def _nodes(self) -> list[Any]:
        for node in self.gm.graph.nodes:
            if node.op == "call_function":
                self.values[node] = self._call(node)
            elif node.op == "output":
                leaves = args_of(node)[0] if isinstance(args_of(node)[0], (tuple, list)) else [args_of(node)[0]]
                return [self._nchw(leaf) for leaf in leaves]
        raise UnsupportedOperatorError("the graph has no output")

    def _call(self, node: fx.Node) -> Any:
        if isinstance(node.meta.get("val"), torch.SymInt):
            return Value(self.sizes.expression(node.meta["val"]))
        rule = _RULES.get(node.target)
        if rule is not None:
            # By its name: another target's kernels override it.
            value = getattr(self, rule.__name__)(node)
            if value is not None:
                return value
        return self._tvm_operator(node)

    # Values and layouts

    def _constant(self, node: fx.Node) -> NDArray[Any]:
        return get_tensor(self.gm, node).detach().cpu().contiguous().numpy()

    def _param(self, value: NDArray[Any]) -> Any:
        """A constant tensor as a parameter of ``main``, so that compiled code doesn't depend on weights."""
        value = np.ascontiguousarray(value)
        var = relax.Var(f"constant_{len(self.constants)}", relax.TensorType(list(value.shape), str(value.dtype)))
        self.constants.append(value)
        self.constant_params.append(var)
        return var

    def _value(self, node: Any) -> Value:
        if is_constant(node) and node not in self.values:
            self.values[node] = Value(self._param(self._constant(node)))
        value = self.values[node]
        assert isinstance(value, Value)
        return value

    def _nchw(self, node: Any) -> Any:
        value = self._value(node)
        if not value.nhwc:
            return value.expr
        n, c, h, w = self._shape(node)
        if h * w == 1 or c == 1:
            return self._reshaped(value.expr, (n, c, h, w))
        return self._transpose(node, value.expr, to_nhwc=False)

    def _nhwc(self, node: Any) -> Any:
        value = self._value(node)
        if value.nhwc:
            return value.expr
        n, c, h, w = self._shape(node)
        if h * w == 1 or c == 1:
            return self._reshaped(value.expr, (n, h, w, c))
        converted = self._transpose(node, value.expr, to_nhwc=True)
        self.values[node] = Value(converted, nhwc=True)
        return converted

    def _transpose(self, node: fx.Node, x: Any, *, to_nhwc: bool) -> Any:
        """Change the layout of ``x``, the value of ``node``."""
        n, c, h, w = self._shape(node)
        nchw, nhwc = (n, c, h, w), (n, h, w, c)
        before, after = (nchw, nhwc) if to_nhwc else (nhwc, nchw)
        if node.meta["val"].dtype != torch.float32 or 0 in nchw:
            return self.builder.emit(relax.op.permute_dims(x, [0, 2, 3, 1] if to_nhwc else [0, 3, 1, 2]))
        rows, columns = (c, h * w) if to_nhwc else (h * w, c)
        return self._launch(
            ("transpose", before, after, to_nhwc),
            "transpose",
            [x],
            after,
            lambda name: self._transpose_kernel(name, n, rows, columns, (before, after)),
        )

    def _shape(self, node: fx.Node) -> tuple[Any, ...]:
        """The shape of a node's tensor, a ``DynamicBatch`` first if the batch is."""
        return self.sizes.kernel_shape(node)

    def _reshaped(self, x: Any, shape: Sequence[Any]) -> Any:
        """``x`` in another shape; TVM would fuse two reshapes in a row into a kernel that copies."""
        bound = self.builder.lookup_binding(x) if isinstance(x, relax.Var) else None
        if isinstance(bound, relax.Call) and bound.op == _RESHAPE:
            x = bound.args[0]
        wanted = main_shape(shape)
        return x if _equal(x.ty.shape.values, wanted) else self.builder.emit(relax.op.reshape(x, wanted))

    def _transpose_kernel(self, name: str, images: Any, rows: int, columns: int, shapes: Any) -> Any:
        return transpose_kernel(name, images, rows, columns, self.unit.lanes, shapes)

    def _is_nhwc(self, node: Any) -> bool:
        return isinstance(node, fx.Node) and isinstance(self.values.get(node), Value) and self.values[node].nhwc

    # Calling kernels

    def _launch(
        self, key: tuple[Any, ...], layer: str, args: Sequence[Any], out: Any, build: Callable[[str], Any]
    ) -> Any:
        """Call the kernel for ``key``, building it the first time; ``out`` is a shape or (shape, dtype) pairs."""
        if key not in self.kernels:
            symbol = f"{key[0]}_{len(self.kernels)}"
            self.kernels[key] = (self.builder.add_func(build(symbol), symbol), symbol)
        kernel, symbol = self.kernels[key]
        self.launched.append((symbol, layer))
        described = out if isinstance(out, list) else [("y", out, "float32")]
        kinds = [relax.TensorType(self.sizes.checked(shape), dtype) for _, shape, dtype in described]
        return self.builder.emit(relax.call_tir(kernel, relax.Tuple(list(args)), kinds if len(kinds) > 1 else kinds[0]))

    def _conv2d(self, node: fx.Node) -> Value | None:
        x, weight, bias, residual, stride, padding, dilation, groups, activation = args_of(node)
        if shape_of(x)[0] == 0:
            return None
        w = self._constant(weight)
        b = None if bias is None else self._constant(bias)
        geometry = window_geometry(
            shape_of(x)[1], shape_of(x)[2:], w.shape[2:], stride, padding, dilation, groups, (1, 1), w.shape[0]
        )
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
        return self._launch(key, layer_of(node), args, (batch, *geometry.output_size, geometry.out_channels), build)

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
            raise UnsupportedOperatorError(
                f"operator {source.target} of layer {layer_of(source)!r} can't be compiled: "
                "TVM gives only its first result"
            )
        return Value(self.builder.emit(relax.TupleGetItem(value.expr, index)))

    def _merge(self, node: fx.Node) -> Any:
        pending = self.values[args_of(node)[1]]
        args = pending.args
        batch, channels, *size = self._shape(pending.x)
        geometry = window_geometry(channels, size, *args["window"])
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
        convolves = [user for user in node.users if user.target is haste.convolve.default]
        names = [layer_of(user) for user in convolves]
        geometries = [self._convolve_geometry(user, channels) for user in convolves]
        settings = [
            args_of(node_)[2]
            for node_ in self.gm.graph.nodes
            if node_.target is haste.hash.default and node_.meta["layer"] == node.meta["layer"]
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
        return window_geometry(channels, size, kernel, stride, padding, dilation, groups, patch, filters)

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
            layer_of(node),
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

    # Pooling, means and resizing

    def _pool(self, node: fx.Node, pooling: Pooling) -> Value | None:
        x = args_of(node)[0]
        batch, channels = self._shape(x)[:2]
        if len(shape_of(x)) != 4 or batch == 0 or x.meta["val"].dtype != torch.float32:
            return None
        y = self._launch(
            ("pool", pooling, batch, channels),
            layer_of(node),
            [self._nhwc(x)],
            (batch, *pooling.output_size, channels),
            lambda symbol: self._pooling_kernel(symbol, pooling, batch, channels),
        )
        return Value(y, nhwc=True)

    def _pooling_kernel(self, name: str, pooling: Pooling, batch: Any, channels: int) -> Any:
        return pooling_kernel(name, pooling, batch, channels, self.unit.lanes)

    def _max_pool(self, node: fx.Node) -> Value | None:
        kernel = _pair(args_of(node)[1])
        stride = _pair(argument(node, 2, "stride", None) or kernel)
        padding, dilation = _pair(argument(node, 3, "padding", 0)), _pair(argument(node, 4, "dilation", 1))
        sizes = _size(args_of(node)[0]), _size(node)
        return self._pool(node, Pooling("max", *sizes, kernel, stride, padding, dilation))

    def _avg_pool(self, node: fx.Node) -> Value | None:
        kernel = _pair(args_of(node)[1])
        stride = _pair(argument(node, 2, "stride", None) or kernel)
        padding = _pair(argument(node, 3, "padding", 0))
        count_include_pad, divisor = (
            argument(node, 5, "count_include_pad", True),
            argument(node, 6, "divisor_override", None),
        )
        sizes = _size(args_of(node)[0]), _size(node)
        pooling = Pooling("avg", *sizes, kernel, stride, padding, count_include_pad=count_include_pad, divisor=divisor)
        return self._pool(node, pooling)

    def _adaptive_avg_pool(self, node: fx.Node) -> Value | None:
        return self._pool(node, Pooling("adaptive_avg", _size(args_of(node)[0]), _size(node)))

    def _mean(self, node: fx.Node) -> Value | None:
        x, dims = args_of(node)[0], argument(node, 1, "dim", None)
        shape = shape_of(x)
        if dims is None or len(shape) != 4 or node.meta["val"].dtype != torch.float32:
            return None
        if sorted(dim % 4 for dim in dims) != [2, 3]:
            return None
        pooled = self._pool(node, Pooling("adaptive_avg", (shape[2], shape[3]), (1, 1)))
        if pooled is None or argument(node, 2, "keepdim", False):
            return pooled
        return Value(self._reshaped(pooled.expr, self._shape(node)))

    def _resize(self, node: fx.Node) -> Value | None:
        x = args_of(node)[0]
        if not self._is_float(x):
            return None
        batch, channels, *before = self._shape(x)
        sizes = (before[0], before[1]), _size(node)
        tables = [table for axis in (0, 1) for table in pack_positions(axis_map(node, axis).numpy())]
        y = self._launch(
            ("resize", batch, channels, sizes),
            layer_of(node),
            [self._nhwc(x), *map(self._param, tables)],
            (batch, *sizes[1], channels),
            lambda symbol: resize_kernel(symbol, batch, *sizes, channels, self.unit.lanes),
        )
        return Value(y, nhwc=True)

    # Norms, softmax and attention

    def _is_float(self, *nodes: fx.Node) -> bool:
        """Whether these are float32 tensors, none empty, of which no size depends on the batch but the first."""
        values = [node.meta["val"] for node in nodes]
        return not any(
            value.dtype != torch.float32
            or value.dim() == 0
            or 0 in shape_of(node)
            or any(isinstance(size, torch.SymInt) for size in value.shape[1:])
            for node, value in zip(nodes, values, strict=True)
        )

    def _layer_norm(self, node: fx.Node) -> Value | None:
        x, normalised, weight, bias = args_of(node)[:4]
        eps = argument(node, 4, "eps", 1e-5)
        if not self._is_float(x, weight, bias):
            return None
        shape, axes = self._shape(x), len(normalised)
        y = self._launch(
            ("layer_norm", shape, axes, eps),
            layer_of(node),
            [self._nchw(tensor) for tensor in (x, weight, bias)],
            shape,
            lambda symbol: layer_norm_kernel(symbol, shape, axes, eps, self.unit.lanes),
        )
        return Value(y)

    def _softmax(self, node: fx.Node) -> Value | None:
        x, dim = args_of(node)[:2]
        if not self._is_float(x, node):
            return None
        shape = self._shape(x)
        axis = dim % len(shape)
        if axis == 1 and self._is_nhwc(x):
            return Value(self._softmax_rows(node, self._nhwc(x), (shape[0], *shape[2:], shape[1])), nhwc=True)
        if axis == 0 or axis != len(shape) - 1:
            return None
        return Value(self._softmax_rows(node, self._nchw(x), shape))

    def _softmax_rows(self, node: fx.Node, x: Any, shape: tuple[Any, ...], scale: float = 1.0) -> Any:
        """``softmax(scale * x)`` over the last axis of a tensor of ``shape``."""
        return self._launch(
            ("softmax", shape, scale),
            layer_of(node),
            [x],
            shape,
            lambda symbol: softmax_kernel(symbol, shape, scale, self.unit.lanes),
        )

    def _matmul(self, node: fx.Node) -> Value | None:
        a, b = args_of(node)[:2]
        if not self._is_float(a, b) or not self._same_leading(a, b) or len(shape_of(a)) < 3:
            return None
        *leading, rows, inner = self._shape(a)
        sizes = (rows, inner, shape_of(b)[-1])
        return Value(self._multiplied(node, self._nchw(a), self._nchw(b), tuple(leading), sizes))

    def _same_leading(self, *nodes: fx.Node) -> bool:
        """Whether tensors agree in all sizes but the last two."""
        first, *others = (self.sizes.shape(node)[:-2] for node in nodes)
        return all(_equal(first, other) for other in others)

    def _multiplied(self, node: fx.Node, a: Any, b: Any, leading: tuple[Any, ...], sizes: tuple[int, int, int]) -> Any:
        rows, inner, columns = sizes
        return self._launch(
            ("matmul", leading, sizes),
            layer_of(node),
            [a, b],
            (*leading, rows, columns),
            lambda symbol: matmul_kernel(symbol, leading, rows, inner, columns, self.unit),
        )

    def _attention(self, node: fx.Node) -> Value | None:
        query, key, value = args_of(node)[:3]
        mask, causal = argument(node, 3, "attn_mask"), argument(node, 5, "is_causal", False)
        inputs = [query, key, value] if mask is None else [query, key, value, mask]
        if causal or not self._is_float(*inputs) or not self._same_leading(query, key, value):
            return None
        *leading, queries, width = self._shape(query)
        keys, features = shape_of(value)[-2:]
        front, scale = tuple(leading), 1 / math.sqrt(width)
        if not front:
            return None
        transposed = self._swapped(self._nchw(key), (*front, keys, width))
        scores = self._multiplied(node, self._nchw(query), transposed, front, (queries, width, keys))
        if mask is not None:
            scaled = self.builder.emit(relax.op.multiply(scores, relax.const(scale, "float32")))
            scores, scale = self.builder.emit(relax.op.add(scaled, self._nchw(mask))), 1.0
        shares = self._softmax_rows(node, scores, (*front, queries, keys), scale)
        return Value(self._multiplied(node, shares, self._nchw(value), front, (queries, keys, features)))

    def _swapped(self, x: Any, shape: tuple[Any, ...]) -> Any:
        """``x``, of ``shape``, with its last two axes swapped."""
        *leading, rows, columns = shape
        after = (*leading, columns, rows)
        if len(leading) > 1 and isinstance(leading[0], DynamicBatch):
            axes = list(range(len(shape)))
            return self.builder.emit(relax.op.permute_dims(x, [*axes[:-2], axes[-1], axes[-2]]))
        images = leading[0] if leading and isinstance(leading[0], DynamicBatch) else math.prod(leading)
        return self._launch(
            ("swap", shape),
            "transpose",
            [x],
            after,
            lambda name: self._transpose_kernel(name, images, rows, columns, (shape, after)),
        )

    # Layout-neutral operators

    def _activation(self, node: fx.Node) -> Value | None:
        activation = activation_name(node)
        x = args_of(node)[0]
        if activation is None or node.meta["val"].dtype != torch.float32 or 0 in shape_of(node):
            return None
        shape = self._shape(node)
        source = self._value(x)
        stored = (shape[0], *shape[2:], shape[1]) if source.nhwc else shape
        return Value(self._activate(node, source.expr, stored, activation), source.nhwc)

    def _activate(self, node: fx.Node, x: Any, shape: tuple[Any, ...], activation: str) -> Any:
        return self._launch(
            ("activation", shape, activation),
            layer_of(node),
            [x],
            shape,
            lambda symbol: self._activation_kernel(symbol, shape, activation),
        )

    def _activation_kernel(self, name: str, shape: tuple[int, ...], activation: str) -> Any:
        return activation_kernel(name, shape, activation, self.unit.lanes)

    def _binary(self, node: fx.Node) -> Value | None:
        left, right = args_of(node)[:2]
        if any(isinstance(side, fx.Node) and not is_tensor(side) for side in (left, right)):
            raise UnsupportedOperatorError(
                f"operator {node.target} of layer {layer_of(node)!r} can't be compiled: "
                "it computes with the batch's size"
            )
        operator_ = _BINARY[cast(Any, node.target)]
        if len(shape_of(node)) != 4 or not (self._is_nhwc(left) or self._is_nhwc(right)):
            return None
        if argument(node, 2, "alpha", 1) != 1 or not all(self._fits_nhwc(side) for side in (left, right)):
            return None
        dtype = _dtype(node.meta["val"].dtype)
        sides = (self._broadcast(side, dtype) for side in (left, right))
        return Value(self.builder.emit(operator_(*sides)), nhwc=True)

    def _fits_nhwc(self, side: Any) -> bool:
        return not isinstance(side, fx.Node) or is_constant(side) or len(shape_of(side)) == 4

    def _broadcast(self, side: Any, dtype: str) -> Any:
        """An operand that broadcasts against an NHWC tensor of a dtype."""
        if not isinstance(side, fx.Node):
            return relax.const(side, dtype)
        if is_constant(side):
            value = self._constant(side)
            value = value.reshape((1,) * (4 - value.ndim) + value.shape)
            return self._param(value.transpose(0, 2, 3, 1))
        return self._nhwc(side)

    def _cat(self, node: fx.Node) -> Value | None:
        tensors, dim = args_of(node)[0], argument(node, 1, "dim", 0)
        if len(shape_of(node)) != 4 or not any(self._is_nhwc(tensor) for tensor in tensors):
            return None
        if any(len(shape_of(tensor)) != 4 for tensor in tensors):
            return None
        axis = (0, 3, 1, 2)[dim % 4]
        parts = [self._nhwc(tensor) for tensor in tensors]
        if axis == 3 and node.meta["val"].dtype == torch.float32 and 0 not in shape_of(node):
            channels = [shape_of(tensor)[1] for tensor in tensors]
            return Value(self._join(node, parts, channels, [], "none"), nhwc=True)
        return Value(self.builder.emit(relax.op.concat(parts, axis)), nhwc=True)

    def _affine(self, node: fx.Node) -> Value:
        sources, scale, shift, activation = args_of(node)
        parts, channels = [self._nhwc(source) for source in sources], [shape_of(source)[1] for source in sources]
        maps = [self._value(scale).expr, self._value(shift).expr]
        return Value(self._join(node, parts, channels, maps, activation), nhwc=True)

    def _join(self, node: fx.Node, parts: Sequence[Any], channels: list[int], maps: list[Any], activation: str) -> Any:
        """NHWC tensors joined along their channels; ``maps`` may have a scale and a shift, (C,)."""
        batch, total, height, width = self._shape(node)
        return self._launch(
            ("concatenation", batch, height, width, *channels, bool(maps), activation),
            layer_of(node),
            [*parts, *maps],
            (batch, height, width, total),
            lambda symbol: concatenation_kernel(
                symbol,
                batch,
                (height, width),
                channels,
                self.unit.lanes,
                affine=bool(maps),
                activation=activation,
            ),
        )

    def _slice(self, node: fx.Node) -> Value | None:
        x, dim = args_of(node)[0], argument(node, 1, "dim", 0)
        if not self._is_nhwc(x):
            return None
        axis, size = (0, 3, 1, 2)[dim % 4], self._shape(x)[dim % 4]
        if isinstance(size, DynamicBatch):
            return None
        start, end, step = (
            argument(node, 2, "start", None) or 0,
            argument(node, 3, "end", None),
            argument(node, 4, "step", 1),
        )
        start, end, step = slice(start, end, step).indices(size)
        sliced = relax.op.strided_slice(self._value(x).expr, [axis], [start], [end], [step], assume_inbound=True)
        return Value(self.builder.emit(sliced), nhwc=True)

    def _permute(self, node: fx.Node) -> Value | None:
        x, order = args_of(node)
        order = [dim % len(order) for dim in order]
        if order == [0, 2, 3, 1]:
            return Value(self._nhwc(x))
        if order == [0, 3, 1, 2] and not self._is_nhwc(x):
            return Value(self._value(x).expr, nhwc=True)
        *leading, last, before = range(len(order))
        if order == [*leading, before, last] and self._is_float(x):
            return Value(self._swapped(self._nchw(x), self._shape(x)))
        return None

    def _reshape(self, node: fx.Node) -> Value | None:
        # Only between (N, C, 1, 1) and (N, C) is the layout no matter.
        x, shape = args_of(node)[0], shape_of(args_of(node)[0])
        if self._is_nhwc(x) and shape[2] * shape[3] == 1:
            return Value(self._reshaped(self._value(x).expr, self._shape(node)))
        return None

    def _channel_shuffle(self, node: fx.Node) -> Value:
        parts = [self._nhwc(part) for part in args_of(node)[0]]
        return Value(self._shuffle(node, parts), nhwc=True)

    def _shuffle(self, node: fx.Node, parts: list[Any]) -> Any:
        """A channel shuffle of NHWC tensors."""
        if node.meta["val"].dtype != torch.float32 or 0 in shape_of(node):
            return self._shuffle_by_operators(node, parts)
        sources, groups, *wanted = args_of(node)
        channels = tuple(shape_of(source)[1] for source in sources)
        batch, kept, height, width = self._shape(node)
        return self._launch(
            ("channel_shuffle", batch, height, width, channels, groups, *wanted),
            layer_of(node),
            parts,
            (batch, height, width, kept),
            lambda symbol: channel_shuffle_kernel(
                symbol, batch, (height, width), channels, groups, (wanted[0], wanted[1]), self.unit.lanes
            ),
        )

    def _shuffle_by_operators(self, node: fx.Node, parts: list[Any]) -> Any:
        sources, groups, start, end = args_of(node)
        n, _, h, w = self._shape(node)
        channels = sum(shape_of(source)[1] for source in sources)
        x = parts[0] if len(parts) == 1 else self.builder.emit(relax.op.concat(parts, 3))
        split = self._reshaped(x, (n, h, w, groups, channels // groups))
        whole = self._reshaped(self.builder.emit(relax.op.permute_dims(split, [0, 1, 2, 4, 3])), (n, h, w, channels))
        return self.builder.emit(relax.op.strided_slice(whole, [3], [start], [end], [1], assume_inbound=True))

    # Everything else

    def _tvm_operator(self, node: fx.Node) -> Value:
        name = node.target.__name__ if hasattr(node.target, "__name__") else str(node.target)
        convert = self.importer.convert_map.get(name)
        reason = "TVM has no translation of it" if convert is None else _wrongly_translated(node)
        if convert is None or reason:
            raise UnsupportedOperatorError(
                f"operator {node.target} of layer {layer_of(node)!r} can't be compiled: {reason}"
            )
        for source in node.all_input_nodes:
            self.importer.env[source] = self._nchw(source)
        try:
            value = Value(convert(node))
            self._check_kind(node, value.expr.ty)
            return value
        except Exception as error:
            raise UnsupportedOperatorError(
                f"operator {node.target} of layer {layer_of(node)!r} can't be compiled: {last_line(error)}"
            ) from None

    def _check_kind(self, node: fx.Node, kind: Any) -> None:
        """Check that TVM's translation has the shapes and dtypes that PyTorch says: some ignore arguments."""
        expected, found = node.meta["val"], kind
        pairs = zip(expected, found.fields, strict=True) if isinstance(found, ir.TupleType) else [(expected, found)]
        for value, tensor in pairs:
            if not isinstance(value, torch.Tensor) or not isinstance(tensor, relax.TensorType) or tensor.shape is None:
                continue
            shape, wanted = list(tensor.shape.values), [self.sizes.expression(size) for size in value.shape]
            if not _equal(shape, wanted) or str(tensor.dtype) != _dtype(value.dtype):
                described = f"{_dtype(value.dtype)}{tuple(value.shape)}"
                raise ValueError(f"TVM's translation gives {tensor.dtype}{tuple(shape)} instead of {described}")


def _equal(a: Sequence[Any], b: Sequence[Any]) -> bool:
    analyzer = sym.Analyzer()
    return len(a) == len(b) and all(analyzer.can_prove_equal(x, y) for x, y in zip(a, b, strict=True))


def _wrongly_translated(node: fx.Node) -> str:
    """Why TVM's translation of an operator computes something else than PyTorch; empty where it is trusted."""
    if node.target is aten.max_pool2d_with_indices.default:
        return "only the values of a max pooling are translated, not their positions"
    if node.target is aten.batch_norm.default and (argument(node, 5, "training") or argument(node, 3, "mean") is None):
        return "it is a batch norm by the batch's own statistics"
    return ""


def layer_of(node: fx.Node) -> str:
    """The layer that a node belongs to; of none, the node's own name."""
    return str(node.meta.get("layer") or node.name)


def _size(node: fx.Node) -> tuple[int, int]:
    """Height and width of (N, C, H, W); pooling of other ranks is left to TVM."""
    height, width = (1, 1, *shape_of(node))[-2:]
    return height, width


def args_of(node: fx.Node) -> tuple[Any, ...]:
    """The node's arguments, as whatever the operator's schema says they are."""
    return node.args


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


_ACTIVATIONS = (
    aten.relu.default,
    aten.relu6.default,
    aten.sigmoid.default,
    aten.silu.default,
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten.tanh.default,
    aten.gelu.default,
    aten.leaky_relu.default,
    aten.elu.default,
    aten.clamp.default,
)

_BINARY = {
    aten.add.Tensor: relax.op.add,
    aten.sub.Tensor: relax.op.subtract,
    aten.mul.Tensor: relax.op.multiply,
    aten.div.Tensor: relax.op.divide,
}

_RULES: dict[Any, Callable[[Lowering, fx.Node], Any]] = {
    haste.conv2d.default: Lowering._conv2d,
    haste.linear.default: Lowering._linear,
    haste.hash.default: Lowering._hash,
    haste.group.default: Lowering._group,
    haste.merge.default: Lowering._merge,
    haste.convolve.default: Lowering._convolve,
    haste.channel_shuffle.default: Lowering._channel_shuffle,
    haste.affine.default: Lowering._affine,
    operator.getitem: Lowering._getitem,
    aten.max_pool2d.default: Lowering._max_pool,
    aten.avg_pool2d.default: Lowering._avg_pool,
    aten.adaptive_avg_pool2d.default: Lowering._adaptive_avg_pool,
    aten.mean.dim: Lowering._mean,
    aten.upsample_bilinear2d.vec: Lowering._resize,
    aten.layer_norm.default: Lowering._layer_norm,
    aten.softmax.int: Lowering._softmax,
    aten.matmul.default: Lowering._matmul,
    aten.bmm.default: Lowering._matmul,
    aten.scaled_dot_product_attention.default: Lowering._attention,
    aten.cat.default: Lowering._cat,
    aten.slice.Tensor: Lowering._slice,
    aten.permute.default: Lowering._permute,
    aten.reshape.default: Lowering._reshape,
    **dict.fromkeys(_BINARY, Lowering._binary),
    **dict.fromkeys(_ACTIVATIONS, Lowering._activation),
}
