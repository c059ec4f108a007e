"""Graphs of PyTorch's operators, written down in JSON and read back."""

import json
import math
import operator
from typing import Any

import pytest
import torch
from torch import fx, nn

from haste_compiler import ArtifactError, UnsupportedOperatorError
from haste_compiler.fallback.program import read, write
from haste_compiler.fallback.record import Fallback

aten = torch.ops.aten


def program(*calls: tuple[Any, ...], **named: Any) -> dict[str, Any]:
    """A program of one input whose calls each take the result of the one before, as a file would hold it."""
    graph = fx.Graph()
    node = graph.placeholder("x")
    for target, *args in calls:
        node = graph.call_function(target, (node, *args), named)
    graph.output((node,))
    return json.loads(json.dumps(write(graph, nn.Module()), allow_nan=False))


CALLS: dict[str, tuple[Any, ...]] = {
    "infinity": (aten.clamp.default, -math.inf, 0.25),
    "list": (aten.permute.default, [1, 0]),
    "large": (aten.slice.Tensor, 0, 0, 2**63 - 1, 2),
    "dtype": (aten.to.dtype, torch.float64),
    "slices": (operator.getitem, (slice(None, None, 2), 0)),
    "tiny": (aten.mul.Scalar, 1e-300),
    "none": (aten.clamp.default, None, 0.0),
    "boolean": (aten.sum.dim_IntList, [0], True),
    "text": (aten.gelu.default,),
}


@pytest.mark.parametrize("name", CALLS)
def test_arguments_survive(name: str) -> None:
    x, (target, *args) = torch.randn(4, 3), CALLS[name]
    (found,) = read(program(CALLS[name]))(x)
    expected = target(x, *args)
    assert found.dtype == expected.dtype and torch.equal(found, expected)


def test_named_arguments_survive() -> None:
    x = torch.randn(2, 3, 4, 5)
    (found,) = read(program((aten.clone.default,), memory_format=torch.channels_last))(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    (found,) = read(program((aten.gelu.default,), approximate="tanh"))(x)
    assert torch.equal(found, nn.functional.gelu(x, approximate="tanh"))


def test_a_graph_makes_its_constants_on_the_device_it_runs_on() -> None:
    """A network that was captured on a card runs on a CPU."""
    graph = fx.Graph()
    made = graph.call_function(aten.arange.default, (3,), {"device": torch.device("cuda")})
    graph.output((made,))
    (found,) = read(write(graph, nn.Module()), "cpu")()
    assert found.device.type == "cpu" and found.tolist() == [0, 1, 2]


def test_what_only_python_knows_is_refused() -> None:
    graph = fx.Graph()
    graph.output((graph.call_function(lambda x: x, (graph.placeholder("x"),)),))
    with pytest.raises(UnsupportedOperatorError, match="can't be called from a compiled network"):
        write(graph, nn.Module())
    graph = fx.Graph()
    graph.output((graph.call_function(aten.clone.default, (object(),)),))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedOperatorError, match="an argument that is object"):
        write(graph, nn.Module())


def test_an_unknown_operator_is_named() -> None:
    unknown = {"inputs": 1, "calls": [{"call": "elsewhere::nms.default", "args": [{"node": 0}]}], "outputs": []}
    with pytest.raises(ArtifactError, match=r"elsewhere::nms\.default is not known here"):
        read(unknown)


def test_operators_are_named_without_plumbing() -> None:
    made = program((aten.permute.default, [1, 0]), (aten.sort.default, 0), (operator.getitem, 0))
    assert Fallback("layer", made).operators == ["aten.sort.default"]
    assert Fallback("layer", program((aten.permute.default, [1, 0]))).operators == ["aten.permute.default"]
