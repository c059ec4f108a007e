"""Walking over an FX graph to make one TVM module: values and their layouts, calls of kernels, TVM's own operators.

Activations of rank four live in NHWC from the first convolution to the last; a value remembers how it is laid out,
and is transposed only where an operator that doesn't know NHWC reads it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from tvm import ir, relax, sym
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from haste_compiler.codegen.cpu.kernels.transpose import transpose_kernel
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.dynamic import BatchRange
from haste_compiler.codegen.program import HasteGroup, Lowered
from haste_compiler.codegen.symbolic import SymbolicSizes, main_shape
from haste_compiler.errors import UnsupportedOperatorError, last_line
from haste_compiler.graph.nodes import argument, get_tensor, is_constant, layer_name
from haste_compiler.methods.haste.ops.merge import MERGE

aten, haste = torch.ops.aten, torch.ops.haste


@dataclass(frozen=True)
class Value:
    """A relax expression and its layout: ``nhwc`` if a tensor that is NCHW in the graph is stored as NHWC."""

    expr: Any
    nhwc: bool = False


_RESHAPE = ir.Op.get("relax.reshape")

_BUILDING = threading.RLock()
"""TVM's builders know each other through one stack for all threads."""


class Walk:
    """The walk over a graph, which asks ``rules`` for every operator's kernels and TVM where there are none."""

    rules: ClassVar[dict[Any, Callable[..., Any]]] = {}
    """By operator, the method that lowers a call of it; what that returns None for is left to TVM."""

    def __init__(self, gm: fx.GraphModule, unit: VectorUnit, threads: int, batch: BatchRange | None) -> None:
        self.gm, self.unit, self.threads = gm, unit, threads
        self.sizes = SymbolicSizes(gm, batch)
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
                var = relax.Var(node.name, relax.TensorType(self.sizes.shape(node), dtype_name(value.dtype)))
                self.values[node] = Value(var)
                inputs.append(var)
        for node in self.gm.graph.nodes:
            if node.op == "call_function" and node.target is MERGE:
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
        rule = self.rules.get(node.target)
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
        return x if same_shape(x.ty.shape.values, wanted) else self.builder.emit(relax.op.reshape(x, wanted))

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

    # Everything else

    def _tvm_operator(self, node: fx.Node) -> Value:
        name = node.target.__name__ if hasattr(node.target, "__name__") else str(node.target)
        convert = self.importer.convert_map.get(name)
        reason = "TVM has no translation of it" if convert is None else _wrongly_translated(node)
        if convert is None or reason:
            raise unsupported(node, reason)
        for source in node.all_input_nodes:
            self.importer.env[source] = self._nchw(source)
        try:
            value = Value(convert(node))
            self._check_kind(node, value.expr.ty)
            return value
        except Exception as error:
            raise unsupported(node, last_line(error)) from None

    def _check_kind(self, node: fx.Node, kind: Any) -> None:
        """Check that TVM's translation has the shapes and dtypes that PyTorch says: some ignore arguments."""
        expected, found = node.meta["val"], kind
        pairs = zip(expected, found.fields, strict=True) if isinstance(found, ir.TupleType) else [(expected, found)]
        for value, tensor in pairs:
            if not isinstance(value, torch.Tensor) or not isinstance(tensor, relax.TensorType) or tensor.shape is None:
                continue
            shape, wanted = list(tensor.shape.values), [self.sizes.expression(size) for size in value.shape]
            if not same_shape(shape, wanted) or str(tensor.dtype) != dtype_name(value.dtype):
                described = f"{dtype_name(value.dtype)}{tuple(value.shape)}"
                raise ValueError(f"TVM's translation gives {tensor.dtype}{tuple(shape)} instead of {described}")


def same_shape(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two shapes are equal for every batch."""
    analyzer = sym.Analyzer()
    return len(a) == len(b) and all(analyzer.can_prove_equal(x, y) for x, y in zip(a, b, strict=True))


def _wrongly_translated(node: fx.Node) -> str:
    """Why TVM's translation of an operator computes something else than PyTorch; empty where it is trusted."""
    if node.target is aten.max_pool2d_with_indices.default:
        return "only the values of a max pooling are translated, not their positions"
    if node.target is aten.batch_norm.default and (argument(node, 5, "training") or argument(node, 3, "mean") is None):
        return "it is a batch norm by the batch's own statistics"
    return ""


def unsupported(node: fx.Node, why: str) -> UnsupportedOperatorError:
    """The error that says why an operator can't be compiled."""
    return UnsupportedOperatorError(f"operator {node.target} of layer {layer_name(node)!r} can't be compiled: {why}")


def args_of(node: fx.Node) -> tuple[Any, ...]:
    """The node's arguments, as whatever the operator's schema says they are."""
    return node.args


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype as TVM calls it."""
    return str(dtype).removeprefix("torch.")
