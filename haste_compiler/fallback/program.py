"""A graph of PyTorch's operators written down in JSON, and read back as a function."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from haste_compiler.errors import ArtifactError, UnsupportedOperatorError
from haste_compiler.fallback.record import Program

_MODULES = ("_operator", "operator", "math")
"""Modules of plain functions that a graph may call on sizes and on tuples."""

_NAMED = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
"""PyTorch's constants that arguments may be: attributes of ``torch`` all of them."""


def write(graph: fx.Graph, owner: torch.nn.Module) -> Program:
    """Write down a graph of calls.

    Args:
        graph: placeholders, calls, and one output of a tuple; ``get_attr`` nodes read other graphs only.
        owner: the module that holds these.

    Raises:
        UnsupportedOperatorError: an argument, or a function, can't be written down.
    """
    places: dict[fx.Node, int] = {}
    calls: list[Any] = []
    inputs = 0
    for node in graph.nodes:
        if node.op == "output":
            return {"inputs": inputs, "calls": calls, "outputs": _value(list(node.args[0]), places)}
        places[node] = len(places)
        if node.op == "placeholder":
            inputs += 1
        elif node.op == "get_attr":
            inner = owner.get_submodule(str(node.target))
            assert isinstance(inner, fx.GraphModule)
            calls.append({"graph": write(inner.graph, inner)})
        else:
            args, kwargs = _value(list(node.args), places), _value(dict(node.kwargs), places)["dict"]
            calls.append({"call": _name(node.target), "args": args, **({"kwargs": kwargs} if kwargs else {})})
    raise UnsupportedOperatorError("a graph has no output")


def read(written: Program, device: str = "cpu") -> Callable[..., Sequence[Any]]:
    """The function that a written graph is: takes its inputs, returns a tuple of its outputs.

    Args:
        written: what ``write`` returned.
        device: where constants are made that the graph makes itself.

    Raises:
        ArtifactError: it calls an operator that isn't registered here.
    """
    graph, root = fx.Graph(), torch.nn.Module()
    nodes: list[fx.Node] = [graph.placeholder(f"x{index}") for index in range(int(written["inputs"]))]
    for number, call in enumerate(written["calls"]):
        if "graph" in call:
            name = f"graph{number}"
            root.add_module(name, read(call["graph"], device))  # type: ignore[arg-type]
            nodes.append(graph.get_attr(name))
            continue
        args = tuple(_read(value, nodes, device) for value in call["args"])
        kwargs = {name: _read(value, nodes, device) for name, value in call.get("kwargs", ())}
        nodes.append(graph.call_function(_function(call["call"]), args, kwargs))
    graph.output(tuple(_read(value, nodes, device) for value in written["outputs"]))
    return fx.GraphModule(root, graph)


def _name(function: Any) -> str:
    """``aten::add.Tensor``, ``higher_order::cond``, ``operator::getitem``."""
    if isinstance(function, torch._ops.OpOverload):
        return str(function._schema.name) + f".{function._overloadname}"
    if isinstance(function, torch._ops.HigherOrderOperator):
        return f"higher_order::{function.name()}"
    module, name = getattr(function, "__module__", ""), getattr(function, "__name__", "")
    if module in _MODULES:
        return f"{module.lstrip('_')}::{name}"
    if module == "torch" and hasattr(torch, name):
        return f"torch::{name}"
    raise UnsupportedOperatorError(f"{function} can't be called from a compiled network")


def _function(name: str) -> Any:
    try:
        found = _named_function(name)
    except AttributeError:
        found = None
    if not callable(found):
        raise ArtifactError(f"the operator {name} is not known here: import the package that registers it")
    return found


def _named_function(name: str) -> Any:
    namespace, _, rest = name.partition("::")
    if namespace in _MODULES:
        return getattr(importlib.import_module(namespace), rest)
    if namespace == "torch":
        return getattr(torch, rest)
    if namespace == "higher_order":
        return getattr(torch.ops.higher_order, rest)
    packet, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload)


def _value(value: Any, places: dict[fx.Node, int]) -> Any:
    """An argument as JSON can hold it; what JSON has no word for is a dictionary of one key."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, fx.Node):
        return {"node": places[value]}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, complex):
        return {"complex": str(value)}
    if isinstance(value, slice):
        return {"slice": [_value(part, places) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, tuple):
        return {"tuple": [_value(part, places) for part in value]}
    if isinstance(value, list):
        return [_value(part, places) for part in value]
    if isinstance(value, dict):
        return {"dict": [[key, _value(part, places)] for key, part in value.items()]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for name, kind in _NAMED.items():
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    raise UnsupportedOperatorError(f"an argument that is {type(value).__name__} can't be part of a compiled network")


def _read(stored: Any, nodes: Sequence[fx.Node], device: str) -> Any:
    if isinstance(stored, list):
        return [_read(part, nodes, device) for part in stored]
    if not isinstance(stored, dict):
        return stored
    ((kind, value),) = stored.items()
    if kind == "node":
        if type(value) is not int or not 0 <= value < len(nodes):
            raise ArtifactError(f"a call takes the value {value!r}: so far there are {len(nodes)}")
        return nodes[value]
    if kind in ("float", "complex"):
        return {"float": float, "complex": complex}[kind](value)
    if kind == "device":
        # A network that was captured on one device may run on another.
        return torch.device(device)
    if kind in _NAMED:
        return getattr(torch, value)
    if kind == "dict":
        return {key: _read(part, nodes, device) for key, part in value}
    parts = tuple(_read(part, nodes, device) for part in value)
    return slice(*parts) if kind == "slice" else parts
