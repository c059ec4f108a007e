"""ONNX's own tests of operators, as networks have them: what says how an operator computes is a constant."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from torch import Tensor

import haste_compiler

_SAYS_HOW = {
    "AffineGrid": [1],
    "CenterCropPad": [1],
    "Clip": [1, 2],
    "Col2Im": [1, 2],
    "ConstantOfShape": [0],
    "CumProd": [1],
    "CumSum": [1],
    "Dropout": [1, 2],
    "Expand": [1],
    "NonMaxSuppression": [2, 3, 4],
    "OneHot": [1],
    "Pad": [1, 2, 3],
    "QuantizeLinear": [2],
    "Range": [0, 1, 2],
    "Reshape": [1],
    "Resize": [1, 2, 3],
    "Slice": [1, 2, 3, 4],
    "Split": [1],
    "Squeeze": [1],
    "Tile": [1],
    "TopK": [1],
    "Trilu": [1],
    "Unsqueeze": [1],
    "Upsample": [1],
}
"""Operands that exporters write as constants or work out from shapes."""

_WEIGHTS = {
    "BatchNormalization": [1, 2, 3, 4],
    "Conv": [1, 2],
    "ConvTranspose": [1, 2],
    "Gemm": [1, 2],
    "MatMul": [1],
    "PRelu": [1],
}


@dataclass(frozen=True)
class Case:
    """One of ONNX's tests.

    Attributes:
        name: of the test.
        model: the network.
        inputs, outputs: arrays, or what else ONNX knows.
        rtol, atol: what may differ.
    """

    name: str
    model: ModelProto
    inputs: list[Any]
    outputs: list[Any]
    rtol: float
    atol: float

    @property
    def operators(self) -> set[str]:
        """The operators of the network."""
        return {node.op_type for node in self.model.graph.node}


@functools.cache
def all_cases() -> dict[str, Case]:
    """All of them, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    return {
        case.name: Case(
            case.name, case.model, list(case.data_sets[0][0]), list(case.data_sets[0][1]), case.rtol, case.atol
        )
        for case in found
        if case.model is not None and case.data_sets
    }


def frozen(case: Case, weights: bool) -> tuple[ModelProto, list[Any]]:
    """The network with constants where networks have them, and its other inputs."""
    model = ModelProto()
    model.CopyFrom(case.model)
    says_how: set[str] = set()
    for node in model.graph.node:
        says_how.update(node.input[i] for i in _constant_operands(node, weights) if i < len(node.input))
    inputs = []
    for info, value in zip(list(model.graph.input), case.inputs, strict=True):
        if info.name in says_how and isinstance(value, np.ndarray):
            model.graph.initializer.append(numpy_helper.from_array(value, info.name))
            model.graph.input.remove(info)
        else:
            inputs.append(value)
    return model, inputs


def _constant_operands(node: NodeProto, weights: bool) -> list[int]:
    if node.op_type.startswith("Reduce"):
        return [1]
    return _SAYS_HOW.get(node.op_type, []) + (_WEIGHTS.get(node.op_type, []) if weights else [])


class NotATensor(Exception):
    """PyTorch has no such value: a sequence, a string, numbers of 4 or 8 bits."""


def tensor(value: Any) -> Tensor:
    if not isinstance(value, np.ndarray | np.generic):
        raise NotATensor(f"a {type(value).__name__}")
    value = np.asarray(value)
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(value.view(np.int16).copy()).view(torch.bfloat16)
    try:
        return torch.from_numpy(value.copy())
    except TypeError:
        raise NotATensor(f"numbers of type {value.dtype}") from None


def check(case: Case, weights: bool = False) -> None:
    """Run a case in eager PyTorch; raises where it isn't what ONNX says."""
    expected = [tensor(value) for value in case.outputs]
    model, inputs = frozen(case, weights)
    network = haste_compiler.from_onnx(model)
    found = network(*(tensor(value) for value in inputs))
    found = found if isinstance(found, tuple) else (found,)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, (ours.shape, theirs.shape, ours.dtype)
        if "Dropout" in case.operators and ours.dtype == torch.bool:
            continue
        # Of half precision ONNX leaves open where sums are rounded.
        half = ours.dtype in (torch.float16, torch.bfloat16)
        rtol, atol = (2e-2, 1e-2) if half else (case.rtol, max(case.atol, 1e-6))
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol, equal_nan=True)
