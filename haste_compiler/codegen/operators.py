"""Operators other than convolutions and linear layers: pooling, norms, attention, activations, what moves values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import fx
from tvm import relax

from haste_compiler.codegen.cpu.kernels.channel_shuffle import channel_shuffle_kernel
from haste_compiler.codegen.cpu.kernels.concatenation import concatenation_kernel
from haste_compiler.codegen.cpu.kernels.elementwise import activation_kernel
from haste_compiler.codegen.cpu.kernels.layer_norm import layer_norm_kernel
from haste_compiler.codegen.cpu.kernels.matmul import matmul_kernel
from haste_compiler.codegen.cpu.kernels.pooling import Pooling, pooling_kernel
from haste_compiler.codegen.cpu.kernels.resize import pack_positions, resize_kernel
from haste_compiler.codegen.cpu.kernels.softmax import softmax_kernel
from haste_compiler.codegen.dynamic import DynamicBatch
from haste_compiler.codegen.walk import Value, Walk, args_of, dtype_name, same_shape, unsupported
from haste_compiler.graph.nodes import argument, is_constant, is_tensor, layer_name, shape_of
from haste_compiler.ops.affine import AFFINE
from haste_compiler.ops.channel_shuffle import CHANNEL_SHUFFLE
from haste_compiler.passes.fuse_epilogue import activation_name
from haste_compiler.passes.resize import axis_map

aten, haste = torch.ops.aten, torch.ops.haste

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


class Operators(Walk):
    """A CPU's kernels of these operators; another target's override the methods that emit them."""

    # Pooling, means and resizing

    def _pool(self, node: fx.Node, pooling: Pooling) -> Value | None:
        x = args_of(node)[0]
        batch, channels = self._shape(x)[:2]
        if len(shape_of(x)) != 4 or batch == 0 or x.meta["val"].dtype != torch.float32:
            return None
        y = self._launch(
            ("pool", pooling, batch, channels),
            layer_name(node),
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
            layer_name(node),
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
            layer_name(node),
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
            layer_name(node),
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
        return all(same_shape(first, other) for other in others)

    def _multiplied(self, node: fx.Node, a: Any, b: Any, leading: tuple[Any, ...], sizes: tuple[int, int, int]) -> Any:
        rows, inner, columns = sizes
        return self._launch(
            ("matmul", leading, sizes),
            layer_name(node),
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
            layer_name(node),
            [x],
            shape,
            lambda symbol: self._activation_kernel(symbol, shape, activation),
        )

    def _activation_kernel(self, name: str, shape: tuple[int, ...], activation: str) -> Any:
        return activation_kernel(name, shape, activation, self.unit.lanes)

    def _binary(self, node: fx.Node) -> Value | None:
        left, right = args_of(node)[:2]
        if any(isinstance(side, fx.Node) and not is_tensor(side) for side in (left, right)):
            raise unsupported(node, "it computes with the batch's size")
        operator_ = _BINARY[cast(Any, node.target)]
        if len(shape_of(node)) != 4 or not (self._is_nhwc(left) or self._is_nhwc(right)):
            return None
        if argument(node, 2, "alpha", 1) != 1 or not all(self._fits_nhwc(side) for side in (left, right)):
            return None
        dtype = dtype_name(node.meta["val"].dtype)
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
            layer_name(node),
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
            layer_name(node),
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

    rules: ClassVar[dict[Any, Callable[..., Any]]] = {
        CHANNEL_SHUFFLE: _channel_shuffle,
        AFFINE: _affine,
        aten.max_pool2d.default: _max_pool,
        aten.avg_pool2d.default: _avg_pool,
        aten.adaptive_avg_pool2d.default: _adaptive_avg_pool,
        aten.mean.dim: _mean,
        aten.upsample_bilinear2d.vec: _resize,
        aten.layer_norm.default: _layer_norm,
        aten.softmax.int: _softmax,
        aten.matmul.default: _matmul,
        aten.bmm.default: _matmul,
        aten.scaled_dot_product_attention.default: _attention,
        aten.cat.default: _cat,
        aten.slice.Tensor: _slice,
        aten.permute.default: _permute,
        aten.reshape.default: _reshape,
        **dict.fromkeys(_BINARY, _binary),
        **dict.fromkeys(_ACTIVATIONS, _activation),
    }


def _size(node: fx.Node) -> tuple[int, int]:
    """Height and width of (N, C, H, W); pooling of other ranks is left to TVM."""
    height, width = (1, 1, *shape_of(node))[-2:]
    return height, width


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])
