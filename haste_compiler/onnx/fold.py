"""Constants of constants, by ONNX's own reference implementation."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from haste_compiler.onnx.values import Known, Value

_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


def fold(node: NodeProto, values: list[Value], version: int) -> list[Known] | None:
    """What a node computes, if it computes it from constants; None where it doesn't, or the reference can't."""
    if node.op_type in _RANDOM or any(each.type == onnx.AttributeProto.GRAPH for each in node.attribute):
        return None
    known = {name: value for name, value in zip(node.input, values, strict=True) if isinstance(value, Known)}
    if len(known) != len({name for name in node.input if name}):
        return None
    if node.op_type == "Identity":
        return [known[node.input[0]]]
    outputs = [name for name in node.output if name]
    graph = helper.make_graph(
        [node],
        "constant",
        [helper.make_value_info(name, onnx.TypeProto()) for name in known],
        [helper.make_value_info(name, onnx.TypeProto()) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(model).run(None, {name: value.array for name, value in known.items()})
    except Exception:
        # The operator itself says what is wrong, if anything is.
        return None
    if not all(isinstance(each, np.ndarray | np.generic) for each in found):
        return None
    return [Known(np.asarray(each), name) for name, each in zip(outputs, found, strict=True)]
