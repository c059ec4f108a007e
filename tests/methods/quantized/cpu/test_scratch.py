"""Rounding in a kernel gives the same bits as its reference."""

import pytest
import torch
from torch import Tensor

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.quantized.cpu.scratch import Line, Scratch
from haste_compiler.methods.quantized.reference.rounding import quantize
from tests.codegen.kernels import Arguments, build, targets
from tests.methods.quantized.units import unit_of

ELEMENTS = 77
"""No multiple of anything, and more than an unrolled loop's step."""


def lines() -> Tensor:
    """Lines of values, each a case."""
    torch.manual_seed(0)
    halves = torch.arange(ELEMENTS) - 38.5
    halves[0] = 127
    x = torch.stack(
        [
            torch.randn(ELEMENTS),
            torch.randn(ELEMENTS) * 1e30,
            torch.randn(ELEMENTS) * 1e-29,
            torch.randn(ELEMENTS) * 1e-40,
            torch.zeros(ELEMENTS),
            -torch.zeros(ELEMENTS),
            # Halfway between two integers.
            halves,
            # The largest value last, where no whole vector is left.
            torch.cat([torch.randn(ELEMENTS - 1), torch.tensor([-9.0])]),
            torch.full((ELEMENTS,), 3e38),
        ]
    )
    return x.float()


@pytest.mark.parametrize("target", targets())
@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("kind", ["own", "unsigned", "signed"])
def test_integers_and_scales_are_the_references(kind: str, nonnegative: bool, target: str) -> None:
    x = lines().abs() if nonnegative else lines()
    integers, scales = _round(x, kind, target, nonnegative)
    wanted, wanted_scales = quantize(x, (1,), nonnegative=nonnegative)
    offset = unit_of(kind, target).offset(nonnegative)
    torch.testing.assert_close(integers.double() - offset, wanted, rtol=0, atol=0)
    torch.testing.assert_close(scales, wanted_scales[:, 0], rtol=0, atol=0)


@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf])
def test_lines_that_are_not_finite_are_known(value: float) -> None:
    x = torch.randn(3, ELEMENTS)
    x[1, 76] = value
    _, scales = _round(x, "own", "llvm", False)
    assert scales.isinf().tolist() == [False, True, False]


def _round(x: Tensor, kind: str, target: str, nonnegative: bool) -> tuple[Tensor, Tensor]:
    """The integers and the scales of each line."""
    unit, count = unit_of(kind, target), len(x)

    def body(source: Expr, integers: Expr, scales: Expr) -> None:
        scratch = Scratch(unit, count, ELEMENTS, nonnegative=nonnegative)
        for line in range(count):
            scratch.round(line, Line(source, line * ELEMENTS, ELEMENTS))
            emit.store(scales, line, scratch.scales[line])
        emit.sweep(count * ELEMENTS, 1, lambda i, n: emit.store(integers, i, scratch.values[i]))

    shapes = [("x", (count * ELEMENTS,), "float32"), ("q", (count * ELEMENTS,), unit.DTYPE), ("s", (count,), "float32")]
    arguments = Arguments()
    arguments.read(x.flatten())
    integers = arguments.write((count * ELEMENTS,), getattr(torch, unit.DTYPE))
    scales = arguments.write((count,))
    arguments.call(build({"round": emit.kernel("round", shapes, body)}, target)["round"])
    return integers.view(count, ELEMENTS), scales
