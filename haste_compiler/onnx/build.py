"""The graph is walked once: every ONNX node becomes calls of PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper
from torch import fx, nn

from haste_compiler.errors import OnnxError, UnsupportedOperatorError, first_line
from haste_compiler.onnx.fold import fold
from haste_compiler.onnx.names import Names, layer_name
from haste_compiler.onnx.network import OnnxNetwork, OnnxTensor
from haste_compiler.onnx.operators import OPERATORS, REFUSED
from haste_compiler.onnx.prepare import Prepared, shape_of
from haste_compiler.onnx.site import Site
from haste_compiler.onnx.sizes import arithmetic
from haste_compiler.onnx.values import DTYPES, HALF, Known, Unsupported, Value

_OURS = ("", "ai.onnx")


def build(prepared: Prepared, single: bool = False) -> OnnxNetwork:
    """Make the module of a prepared network.

    Args:
        prepared: the network.
        single: half precision becomes float32.

    Raises:
        UnsupportedOperatorError: it has operators that aren't known; all are named.
        OnnxError: the graph isn't consistent.
    """
    return _Builder(prepared, single).network()


class _Builder:
    """Writes the graph; a ``Writer`` for the operators."""

    def __init__(self, prepared: Prepared, single: bool) -> None:
        self.single = single
        self._prepared = prepared
        self._graph, self._root = fx.Graph(), nn.Module()
        self._names = Names()
        self._layers: dict[str, str] = {}
        self._constants: dict[int, tuple[Known, fx.Node]] = {}
        self._values: dict[str, Value] = {"": None}
        self._shapes: dict[str, tuple[int | str | None, ...] | None] = {}
        self._types: dict[str, torch.dtype | None] = {}
        self._lost: set[str] = set()
        self._unsupported: list[tuple[str, str, str]] = []

    def network(self) -> OnnxNetwork:
        """The whole network."""
        graph = self._prepared.graph
        weights = {each.name for each in self._prepared.initializers}
        # Large initialisers stand among the inputs of the graph whose types were inferred.
        inputs = [each for each in graph.input if each.name not in weights]
        declared = [self._declared(each) for each in inputs]
        for each in declared:
            name = self._names.make(each.name, "input")
            self._values[each.name] = self._graph.placeholder(name)
        self._constant_values(self._prepared.initializers)
        self._walk(graph)
        self._refuse()
        outputs = [self._output(each.name) for each in graph.output]
        self._graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        self._graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        network = OnnxNetwork(self._root, self._graph, "OnnxNetwork")
        network.meta["onnx"] = {
            "inputs": tuple(declared),
            "outputs": tuple(self._declared(each) for each in graph.output),
            "layers": dict(self._layers),
        }
        return network

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        return self._graph.call_function(function, args, kwargs)

    def layer(self, module: nn.Module, name: str, op: str, weight: str, *args: Any) -> fx.Node:
        made = self._names.path(layer_name(name, op, weight), op.lower())
        inside, _, last = made.rpartition(".")
        holder = self._root
        for part in inside.split(".") if inside else []:
            if part not in holder._modules:
                holder.add_module(part, nn.Module())
            holder = holder.get_submodule(part)
        holder.add_module(last, module)
        self._layers[made] = name
        return self._graph.call_module(made, args)

    def constant(self, known: Known) -> fx.Node:
        found = self._constants.get(id(known))
        if found is None:
            tensor = known.tensor()
            if self.single and tensor.dtype in HALF:
                tensor = tensor.float()
            name = self._names.make(known.name, "constant")
            self._root.register_buffer(name, tensor)
            found = self._constants[id(known)] = known, self._graph.get_attr(name)
        return found[1]

    def _declared(self, info: ValueInfoProto) -> OnnxTensor:
        dtype = DTYPES.get(info.type.tensor_type.elem_type)
        if dtype is None or not info.type.HasField("tensor_type"):
            raise UnsupportedOperatorError(f"{info.name!r} of the network is no tensor of a type that PyTorch has")
        return OnnxTensor(info.name, shape_of(info.type), torch.float32 if self.single and dtype in HALF else dtype)

    def _constant_values(self, initializers: list[TensorProto]) -> None:
        for each in initializers:
            try:
                self._values[each.name] = Known(numpy_helper.to_array(each), each.name)
            except Exception as error:
                raise OnnxError(f"the weights {each.name!r} can't be read: {first_line(error)}") from error

    def _walk(self, graph: GraphProto) -> None:
        for info in (*graph.input, *graph.value_info, *graph.output):
            self._shapes[info.name] = shape_of(info.type)
            self._types[info.name] = DTYPES.get(info.type.tensor_type.elem_type)
        for node in graph.node:
            self._node(node)

    def _node(self, node: NodeProto) -> None:
        known = node.domain in _OURS and (node.op_type in OPERATORS or node.op_type in ("Constant", "If"))
        try:
            if any(name in self._lost for name in node.input):
                if known:
                    raise _LostError
                raise Unsupported(_reason(node))
            results = self._convert(node, known)
        except (Unsupported, _LostError) as reason:
            if isinstance(reason, Unsupported):
                self._unsupported.append((self._title(node), self._where(node), str(reason)))
            self._lost.update(name for name in node.output if name)
            return
        except (OnnxError, UnsupportedOperatorError):
            raise
        except Exception as error:
            raise OnnxError(
                f"{node.op_type} {self._where(node)} can't be read: {type(error).__name__}: {first_line(error)}"
            ) from error
        for name, value in zip(node.output, results, strict=False):
            if name:
                self._values[name] = value

    def _convert(self, node: NodeProto, known: bool) -> tuple[Value, ...]:
        values = [self._value(name, node) for name in node.input]
        attributes = {each.name: _attribute(each) for each in node.attribute}
        if node.op_type == "If" and known:
            return self._branch(values[0], attributes)
        if node.domain in _OURS and (found := fold(node, values, self._prepared.version)) is not None:
            return tuple(found)
        site = Site(
            node.op_type,
            node.name or next((name for name in node.output if name), ""),
            self._prepared.version,
            attributes,
            values,
            [self._shapes.get(name) for name in node.input],
            [bool(name) for name in node.output],
            [self._types.get(name) for name in node.output],
            self,
        )
        if node.domain in _OURS and (size := arithmetic(site)) is not None:
            return (size,)
        if not known or node.op_type not in OPERATORS:
            raise Unsupported(_reason(node))
        result = OPERATORS[node.op_type](site)
        return result if isinstance(result, tuple) else (result,)

    def _branch(self, condition: Value, attributes: dict[str, Any]) -> tuple[Value, ...]:
        if not isinstance(condition, Known):
            raise Unsupported("its condition depends on the network's inputs")
        branch = attributes["then_branch" if condition.array.reshape(-1)[0] else "else_branch"]
        self._constant_values(list(branch.initializer))
        self._walk(branch)
        if any(each.name in self._lost for each in branch.output):
            raise _LostError
        return tuple(self._values[each.name] for each in branch.output)

    def _value(self, name: str, node: NodeProto) -> Value:
        if name not in self._values:
            raise OnnxError(f"{node.op_type} {self._where(node)} reads {name!r}, which nothing before it writes")
        return self._values[name]

    def _output(self, name: str) -> fx.Node:
        if name not in self._values:
            raise OnnxError(f"nothing writes the network's output {name!r}")
        site = Site("", name, self._prepared.version, {}, [self._values[name]], [None], [True], [None], self)
        return site.tensor(0)

    def _title(self, node: NodeProto) -> str:
        domain = "" if node.domain in _OURS else f"{node.domain}."
        version = next(
            (each for each in (_since(node.op_type, self._prepared.version),) if node.domain in _OURS and each), None
        )
        return f"{domain}{node.op_type}" + (f" (version {version})" if version else "")

    @staticmethod
    def _where(node: NodeProto) -> str:
        return repr(node.name or next((name for name in node.output if name), "without a name"))

    def _refuse(self) -> None:
        if not self._unsupported:
            return
        groups: dict[tuple[str, str], list[str]] = {}
        for title, where, reason in self._unsupported:
            groups.setdefault((title, reason), []).append(where)
        lines = [
            f"{title}{f': {reason}' if reason else ''}; at {', '.join(places)}"
            for (title, reason), places in groups.items()
        ]
        raise UnsupportedOperatorError("the ONNX network can't be converted for:\n  " + "\n  ".join(lines))


class _LostError(Exception):
    """The node reads what an unsupported operator would have written."""


def _reason(node: NodeProto) -> str:
    """Why an operator isn't known; nothing where there is no more to say."""
    return REFUSED.get(node.op_type, "") if node.domain in _OURS else ""


def _since(op: str, version: int) -> int | None:
    try:
        return onnx.defs.get_schema(op, version).since_version
    except onnx.defs.SchemaError:
        return None


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray | str | int | float | GraphProto):
        return value
    return [each.decode(errors="replace") if isinstance(each, bytes) else each for each in value]
