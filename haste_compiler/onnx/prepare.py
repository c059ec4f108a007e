"""Before operators are converted: functions are written out, shapes are inferred."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx.inliner
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper

from haste_compiler.onnx.operators import OPERATORS
from haste_compiler.onnx.read import opset

_SMALL = 1024
"""Initialisers with more elements than this hold no shapes: inference is told their types only."""


@dataclass(frozen=True)
class Prepared:
    """A network whose operators can be converted one by one.

    Attributes:
        graph: its nodes, with inferred types; of initialisers only the small ones.
        initializers: all of them.
        version: of ONNX's own operators.
    """

    graph: GraphProto
    initializers: list[TensorProto]
    version: int


def prepare(model: ModelProto) -> Prepared:
    """Write functions out, those of the network and those that operators are defined by, and infer types."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    # An operator that isn't known may be defined by simpler ones, whose definitions may in turn need the same.
    for _ in range(3):
        unknown = {node.op_type for node in _nodes(model.graph) if node.domain in ("", "ai.onnx")} - set(OPERATORS)
        defined = [("", name) for name in sorted(unknown) if _is_function(name, opset(model))]
        if not defined:
            break
        model = _written_out(model, defined)
    return Prepared(_inferred(model), list(model.graph.initializer), opset(model))


def _written_out(model: ModelProto, defined: list[tuple[str, str]]) -> ModelProto:
    """Write operators out by their definitions; those that ONNX can't write out stay."""
    # Definitions that depend on types want to know those of the constants too.
    typed, declared = ModelProto(), {each.name for each in (*model.graph.input, *model.graph.value_info)}
    typed.CopyFrom(model)
    for weight in model.graph.initializer:
        if weight.name not in declared:
            info = helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
            typed.graph.value_info.append(info)
    for name in defined:
        try:
            typed = onnx.inliner.inline_selected_functions(typed, [name], inline_schema_functions=True)
        except RuntimeError:
            # Its inliner knows no operand that is left out.
            continue
    return typed


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _is_function(name: str, version: int) -> bool:
    try:
        schema = onnx.defs.get_schema(name, version)
    except onnx.defs.SchemaError:
        return False
    return schema.has_function or schema.has_context_dependent_function


def _inferred(model: ModelProto) -> GraphProto:
    graph, weights = model.graph, {each.name for each in model.graph.initializer}
    light = ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    light.graph.name = graph.name or "graph"
    light.graph.node.extend(graph.node)
    light.graph.input.extend(each for each in graph.input if each.name not in weights)
    light.graph.output.extend(graph.output)
    for weight in graph.initializer:
        if _elements(weight) <= _SMALL:
            light.graph.initializer.append(weight)
        else:
            light.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    try:
        return onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except Exception:
        # Types are a help only. What is wrong is said where an operator is converted.
        return light.graph


def _elements(weight: TensorProto) -> int:
    count = 1
    for size in weight.dims:
        count *= size
    return count


def shape_of(kind: TypeProto) -> tuple[int | str | None, ...] | None:
    """Sizes, symbols where there are some, None where nothing is known; None: the rank isn't known."""
    if not kind.tensor_type.HasField("shape"):
        return None
    return tuple(_dim(each) for each in kind.tensor_type.shape.dim)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value > 0 else None
    # Some exporters write "?" for a size that isn't known, which makes different sizes look the same.
    return dim.dim_param if dim.dim_param not in ("", "?") else None
