"""Walking over an FX graph to make one TVM module: values and their layouts, calls of kernels.

Activations of rank four live in NHWC from the first convolution to the last; a value remembers how it is laid out,
and is transposed only where an operator that doesn't know NHWC reads it. What only looks at another tensor's memory in
another order is lowered when somebody asks for its value: kernels that take strides don't.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from tvm import ir, relax

from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.liveness import read_variables
from haste_compiler.codegen.machine import Machine
from haste_compiler.codegen.program import Lowered, Record
from haste_compiler.codegen.shapes import same_shape
from haste_compiler.codegen.symbolic import SymbolicSizes, main_shape
from haste_compiler.codegen.tables import Joined
from haste_compiler.codegen.trusted import POINTWISE, is_plain, is_trusted
from haste_compiler.codegen.tvm_operators import TvmOperators
from haste_compiler.codegen.values import dtype_name
from haste_compiler.errors import UnsupportedOperatorError
from haste_compiler.fallback.call import SYMBOL
from haste_compiler.fallback.record import Fallback
from haste_compiler.fallback.region import is_raw, make_region
from haste_compiler.fallback.waiting import Waiting
from haste_compiler.forking import Lock
from haste_compiler.graph.dynamic import BatchRange
from haste_compiler.graph.nodes import LEFT_TO_PYTORCH, METHOD, get_tensor, is_call, is_constant, is_size, unsupported
from haste_compiler.graph.views import VIEWS, View, view_of
from haste_compiler.interrupts import check_interrupt

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Machine)


@dataclass(frozen=True)
class Value:
    """A relax expression and its layout: ``nhwc`` if a tensor that is NCHW in the graph is stored as NHWC."""

    expr: Any
    nhwc: bool = False


@dataclass(frozen=True)
class Unmade:
    """A layer whose value is made when somebody asks for it, and which another's kernel may compute instead.

    Attributes:
        layer: what a rule needs to know of it for that.
        make: launches its own kernels.
    """

    layer: Any
    make: Callable[[], Value]


_RESHAPE = ir.Op.get("relax.reshape")

_BUILDING = Lock(brief=True)
"""TVM's builders know each other through one stack for all threads."""


def lower(
    gm: fx.GraphModule, machine: Machine, rules: Joined, batch: BatchRange | None = None, *, fallback: bool = True
) -> Lowered:
    """Lower a graph: every node becomes a call of a kernel of ours, of TVM's, or of PyTorch's own.

    Args:
        gm: the graph, as the methods left it; every node has ``meta["val"]``.
        machine: what code is made for.
        rules: the machine's and the methods' tables, joined.
        batch: the batches that the graph was captured for; None: one.
        fallback: let PyTorch run what no kernel computes.

    Raises:
        UnsupportedOperatorError: an operator can't be lowered; the message names it and its layer.
    """
    return Walk(gm, machine, rules, batch, fallback=fallback).run()


class Walk(Generic[M]):
    """The walk over a graph: it asks ``rules`` for every operator's kernels, then TVM, and leaves the rest to PyTorch.

    Attributes:
        gm: the graph.
        machine: what code is made for.
        sizes: its symbolic sizes.
        values: what was made of each node so far: a ``Value``, an ``Unmade`` one, or whatever rules hand on to each
            other; the node in whose place it was written, where only that is read.
        statistics: tensors that are returned behind the outputs, in the order of the records.
    """

    def __init__(
        self, gm: fx.GraphModule, machine: M, rules: Joined, batch: BatchRange | None = None, *, fallback: bool = True
    ) -> None:
        self.gm, self.machine, self._rules, self._fallback = gm, machine, rules, fallback
        self.sizes = SymbolicSizes(gm, batch)
        self._builder = relax.BlockBuilder()
        self._tvm = TvmOperators(self._builder, self.sizes)
        self.values: dict[fx.Node, Any] = {}
        self.statistics: list[Any] = []
        self._kernels: dict[tuple[Any, ...], Any] = {}
        self._launched: list[tuple[str, str, Any]] = []
        self._records: list[Record] = []
        self._parameters: list[Any] = []
        self._constants: list[NDArray[Any]] = []
        self._constant_params: list[Any] = []
        self._waiting = Waiting()
        self._fallbacks: list[Fallback] = []

    def run(self) -> Lowered:
        """Lower the whole graph."""
        inputs = []
        for node in self.gm.graph.find_nodes(op="placeholder"):
            value = node.meta["val"]
            if not isinstance(value, torch.Tensor) and not node.users:
                # A constant, for whose value the graph was captured.
                continue
            if not isinstance(value, torch.Tensor):
                raise UnsupportedOperatorError(
                    f"input {node.name!r} is {type(value).__name__}, only tensors are compiled"
                )
            var = relax.Var(node.name, relax.TensorType(self.sizes.shape(node), dtype_name(value.dtype)))
            self.values[node] = Value(var)
            inputs.append(var)
        with _BUILDING.lock, self._builder.function("main"):
            try:
                with self._builder.dataflow():
                    outputs = self._nodes()
                    result = self._builder.emit_output(relax.Tuple([*outputs, *self.statistics]))
            except BaseException:
                # What the dataflow block left open; TVM would print that it is.
                self._builder._end_block()
                raise
            arguments = [*inputs, *self._inputs_behind, *self._parameters, *self._constant_params]
            self._builder.emit_func_output(result, arguments)
        plan = repr(list(self._kernels))
        mod, batch = self._builder.finalize(), self.sizes.limited()
        read = read_variables(mod["main"])
        kernels = [(symbol, layer) for symbol, layer, made in self._launched if made in read]
        described = (self._constants, self._records, len(outputs), kernels, batch)
        return Lowered(*described, mod, plan, fallbacks=self._fallbacks)

    @property
    def _inputs_behind(self) -> list[Any]:
        """Parameters of ``main`` behind the network's inputs."""
        return []

    def _nodes(self) -> list[Any]:
        for node in self.gm.graph.nodes:
            check_interrupt()
            if node.op == "call_function" and not (is_size(node) or self._is_known(node) or is_call(node, *VIEWS)):
                self._call(node)
            elif node.op == "output":
                leaves = args_of(node)[0] if isinstance(args_of(node)[0], (tuple, list)) else [args_of(node)[0]]
                return [self.nchw(leaf) for leaf in leaves]
        raise UnsupportedOperatorError("the graph has no output")

    def _is_known(self, node: fx.Node) -> bool:
        """Whether a call was dealt with before its turn, with the one that it picks a value from."""
        return node in self.values or node in self._waiting

    def _is_unmade_view(self, node: Any) -> bool:
        """Whether a node is a view whose value nobody has asked for."""
        return is_call(node, *VIEWS) and not self._is_known(node)

    def _call(self, node: fx.Node) -> None:
        try:
            value = None if LEFT_TO_PYTORCH in node.meta else self._lowered(node)
        except UnsupportedOperatorError as error:
            if not self._fallback or METHOD in node.meta:
                raise
            log.debug("left to PyTorch: %s", error)
            value = None
        if value is not None:
            self.values[node] = value
        elif METHOD in node.meta:
            raise unsupported(node, f"the method {node.meta[METHOD]!r} has no kernel for {self.machine.name}")
        elif self._fallback:
            self._waiting.add(node)
        else:
            raise unsupported(node, "no kernel computes it, and fallback is off")

    def _lowered(self, node: fx.Node) -> Any:
        """What a rule, or TVM, makes of a node; None: neither takes it."""
        known = getattr(node.target, "namespace", None) != "aten" or is_plain(node)
        for rule in self._rules.get(node.target, ()) if known else ():
            value = rule(self, node)
            if value is not None:
                return value
        if not is_trusted(node):
            return None
        sources = node.all_input_nodes
        if node.target in POINTWISE and len(sources) == 1 and self.is_nhwc(sources[0]):
            return Value(self._tvm.convert(node, [self.nhwc(sources[0])], nhwc=True), nhwc=True)
        return Value(self._tvm.convert(node, [self.nchw(source) for source in sources]))

    def _call_waiting(self, wanted: fx.Node) -> None:
        """Call what waits and a node's value depends on."""
        region = make_region(self.gm, self._waiting.take(wanted), self.is_nhwc)
        inputs = [self._raw(node) if is_raw(node) else self.value(node).expr for node in region.inputs]
        kinds = [
            relax.TensorType(self._stored(node, nhwc), dtype_name(node.meta["val"].dtype))
            for node, nhwc in region.outputs
        ]
        kind = kinds[0] if len(kinds) == 1 else ir.TupleType(kinds)
        number = relax.prim_value(len(self._fallbacks))
        result = self.emit(relax.call_pure_packed(SYMBOL, number, *inputs, ty_args=kind))
        self._launched.append((SYMBOL, region.fallback.layer, result))
        self._fallbacks.append(region.fallback)
        for index, (node, nhwc) in enumerate(region.outputs):
            one = result if len(kinds) == 1 else self.emit(relax.TupleGetItem(result, index))
            self.values[node] = Value(one, nhwc)

    def _raw(self, node: fx.Node) -> Any:
        """The bits of a constant that only PyTorch reads."""
        return self.param(get_tensor(self.gm, node).cpu().contiguous().view(torch.int16).numpy())

    def _stored(self, node: fx.Node, nhwc: bool) -> list[Any]:
        """A tensor's shape as it is stored."""
        shape = self.sizes.shape(node)
        return [shape[0], *shape[2:], shape[1]] if nhwc else shape

    # Values and layouts

    def constant(self, node: fx.Node) -> NDArray[Any]:
        """The tensor that a ``get_attr`` node reads."""
        return get_tensor(self.gm, node).detach().cpu().contiguous().numpy()

    def param(self, value: NDArray[Any]) -> Any:
        """A constant tensor as a parameter of ``main``, so that compiled code doesn't depend on weights."""
        # NumPy's own function gives a scalar a dimension.
        value = np.ascontiguousarray(value).reshape(value.shape)
        var = relax.Var(f"constant_{len(self._constants)}", relax.TensorType(list(value.shape), str(value.dtype)))
        self._constants.append(value)
        self._constant_params.append(var)
        return var

    def value(self, node: Any) -> Value:
        """A node's tensor, as it is stored."""
        if node not in self.values or isinstance(self.values[node], Unmade):
            self._make(node)
        value = self.values[node]
        assert isinstance(value, Value)
        return value

    def _make(self, node: fx.Node) -> None:
        """Make a value that is made when it is first asked for."""
        made = self.values.get(node)
        if isinstance(made, Unmade):
            self.values[node] = made.make()
        if self._is_unmade_view(node):
            self._call(node)
        if node in self._waiting:
            self._call_waiting(node)
        elif is_size(node):
            self.values[node] = Value(self.sizes.expression(node.meta["val"]))
        elif is_raw(node):
            raise unsupported(node, "a constant of bfloat16 is no output of a compiled network")
        elif is_constant(node):
            self.values[node] = Value(self.param(self.constant(node)))

    def nchw(self, node: Any) -> Any:
        """A node's tensor, stored as its shape says."""
        value = self.value(node)
        if not value.nhwc:
            return value.expr
        n, c, h, w = self.shape(node)
        if h * w == 1 or c == 1:
            return self.reshaped(value.expr, (n, c, h, w))
        return self._transpose(node, value.expr, to_nhwc=False)

    def nhwc(self, node: Any) -> Any:
        """A node's tensor (N, C, H, W), stored as NHWC."""
        value = self.value(node)
        if value.nhwc:
            return value.expr
        n, c, h, w = self.shape(node)
        if h * w == 1 or c == 1:
            return self.reshaped(value.expr, (n, h, w, c))
        converted = self._transpose(node, value.expr, to_nhwc=True)
        self.values[node] = Value(converted, nhwc=True)
        return converted

    def is_nhwc(self, node: Any) -> bool:
        """Whether a node's tensor is stored as NHWC."""
        if node in self._waiting or self._is_unmade_view(node) or self.unmade(node) is not None:
            # How PyTorch leaves it, or a view, only its call says.
            self._make(node)
        return isinstance(node, fx.Node) and isinstance(self.values.get(node), Value) and self.values[node].nhwc

    def unmade(self, node: Any) -> Any:
        """What is known of a layer whose value nobody has asked for, see ``Unmade``; None: it is no such layer."""
        value = self.values.get(node) if isinstance(node, fx.Node) else None
        return value.layer if isinstance(value, Unmade) else None

    def shape(self, node: fx.Node) -> tuple[Any, ...]:
        """The shape of a node's tensor, a ``DynamicBatch`` first if the batch is."""
        return self.sizes.kernel_shape(node)

    def view(self, node: fx.Node) -> View | None:
        """The tensor that a node's is a view of, which is in memory or will be; None where it has to be copied."""
        return view_of(node, lambda source: isinstance(self.values.get(source), Value), self.is_nhwc)

    def stored_shape(self, node: fx.Node) -> tuple[Any, ...]:
        """The shape of a node's tensor as it is stored, a ``DynamicBatch`` first if the batch is."""
        n, *sizes = self.shape(node)
        return (n, *sizes[1:], sizes[0]) if self.is_nhwc(node) else (n, *sizes)

    def reshaped(self, x: Any, shape: Sequence[Any]) -> Any:
        """``x`` in another shape; TVM would fuse two reshapes in a row into a kernel that copies."""
        bound = self._builder.lookup_binding(x) if isinstance(x, relax.Var) else None
        if isinstance(bound, relax.Call) and bound.op == _RESHAPE:
            x = bound.args[0]
        wanted = main_shape(shape)
        return x if same_shape(x.ty.shape.values, wanted) else self.emit(relax.op.reshape(x, wanted))

    def _transpose(self, node: fx.Node, x: Any, *, to_nhwc: bool) -> Any:
        """Change the layout of ``x``, the value of ``node``."""
        n, c, h, w = self.shape(node)
        nchw, nhwc = (n, c, h, w), (n, h, w, c)
        before, after = (nchw, nhwc) if to_nhwc else (nhwc, nchw)
        if node.meta["val"].dtype != torch.float32 or 0 in nchw:
            return self.emit(relax.op.permute_dims(x, [0, 2, 3, 1] if to_nhwc else [0, 3, 1, 2]))
        rows, columns = (c, h * w) if to_nhwc else (h * w, c)
        return self.launch(
            ("transpose", before, after, to_nhwc),
            "transpose",
            [x],
            after,
            lambda name: self.machine.transpose(name, n, rows, columns, (before, after)),
        )

    # Calling kernels

    def emit(self, expression: Any) -> Any:
        """Bind a relax expression to a variable."""
        return self._builder.emit(expression)

    def launch(
        self, key: tuple[Any, ...], layer: str, args: Sequence[Any], out: Any, build: Callable[[str], Any]
    ) -> Any:
        """Call a kernel, built the first time that it is called for.

        Args:
            key: all that the kernel depends on, its kind first.
            layer: that it belongs to.
            args: expressions.
            out: shape of the float32 tensor that it writes; or a list of (name, shape, dtype), which gives a tuple.
            build: makes the kernel of a symbol.
        """
        kernel, symbol = self.kernel(key, build)
        described = out if isinstance(out, list) else [("y", out, FLOAT32.dtype)]
        kinds = [relax.TensorType(self.sizes.checked(shape), dtype) for _, shape, dtype in described]
        made = self.emit(relax.call_tir(kernel, relax.Tuple(list(args)), kinds if len(kinds) > 1 else kinds[0]))
        self.note_launch(symbol, layer, made)
        return made

    def kernel(self, key: tuple[Any, ...], build: Callable[[str], Any]) -> tuple[Any, str]:
        """A kernel, built the first time that it is asked for, and its symbol; see ``launch``."""
        if key not in self._kernels:
            symbol = f"{key[0]}_{len(self._kernels)}"
            self._kernels[key] = (self._builder.add_func(build(symbol), symbol), symbol)
        found: tuple[Any, str] = self._kernels[key]
        return found

    def note_launch(self, symbol: str, layer: str, made: Any) -> None:
        """Note that a layer's kernel was called, and what it made."""
        self._launched.append((symbol, layer, made))

    def launch_several(
        self, key: tuple[Any, ...], layer: str, args: Sequence[Any], out: list[Any], build: Callable[[str], Any]
    ) -> list[Any]:
        """As ``launch``; the tensors that the kernel writes, one by one."""
        made = self.launch(key, layer, args, out, build)
        return [self.emit(relax.TupleGetItem(made, i)) for i in range(len(out))] if len(out) > 1 else [made]

    def parameters_of(self, layer: str, count: int) -> Any:
        """A new parameter of ``main``, (count,): the values of a record's parameters; ``layer`` is its first."""
        var = relax.Var(f"{layer}.settings".replace(".", "_"), relax.TensorType([count], FLOAT32.dtype))
        self._parameters.append(var)
        return var

    def add_record(self, record: Record, statistics: Sequence[Any]) -> int:
        """Note a method's record, whose parameters were the last to be made, and its statistics. Returns its number."""
        assert len(statistics) == record.statistics and len(self._parameters) == len(self._records) + 1
        self._records.append(record)
        self.statistics += statistics
        return len(self._records) - 1

    def record(self, number: int) -> Record:
        """A record that was added."""
        return self._records[number]


def args_of(node: fx.Node) -> tuple[Any, ...]:
    """The node's arguments, as whatever the operator's schema says they are."""
    return node.args
