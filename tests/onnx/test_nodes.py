"""ONNX's own tests of operators: what passes, and what doesn't, each by name with a reason."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx", reason="the package onnx is not installed: install the dev extra")

from haste_compiler.errors import HasteError
from haste_compiler.onnx.operators import OPERATORS
from tests.onnx import node_cases
from tests.onnx.node_cases import Case, NotATensor, all_cases
from tests.onnx.unsupported_nodes import UNSUPPORTED

VISION = {
    *("Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "ConvTranspose", "DepthToSpace", "Flatten"),
    *("Gemm", "GlobalAveragePool", "HardSigmoid", "HardSwish", "InstanceNormalization", "LayerNormalization", "MatMul"),
    *("MaxPool", "Pad", "PRelu", "ReduceMean", "Reshape", "Resize", "Slice", "Softmax", "Split", "Transpose"),
}
"""What is checked without being asked; the slow test checks all."""


def outcome(case: Case, weights: bool) -> str:
    """Nothing where it passes, otherwise why it doesn't."""
    try:
        node_cases.check(case, weights)
    except (HasteError, NotATensor, NotImplementedError, AssertionError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def check_all(names: list[str]) -> None:
    listed = {f"test_{name}" for several in UNSUPPORTED.values() for name in several.split()}
    fails, passes, count = {}, [], 0
    for name in names:
        for weights in (False, True):
            why = outcome(all_cases()[name], weights)
            if name in listed and not why:
                passes.append(name)
            elif name not in listed and why:
                fails[name, weights] = why
            count += not why and not weights
    print(f"{count} of {len(names)} of ONNX's tests pass, {len(listed.intersection(names))} are listed as unsupported")
    assert not fails, f"these fail and aren't listed: {fails}"
    assert not passes, f"these pass though they are listed as unsupported: {passes}"


def test_operators_of_vision_networks() -> None:
    check_all([name for name, case in all_cases().items() if case.operators <= VISION])


@pytest.mark.slow
def test_all_operators() -> None:
    check_all(list(all_cases()))


def test_every_operator_is_tested() -> None:
    tested = {operator for name, case in all_cases().items() for operator in case.operators}
    # ONNX has none of these: see test_from_onnx.
    assert set(OPERATORS) - tested <= {"GlobalLpPool", "Scatter", "Upsample"}
