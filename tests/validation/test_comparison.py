import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.validation.comparison import OutputTally, difference_of, norm
from haste_compiler.validation.report import OutputComparison
from haste_compiler.validation.running import run

NAN, INF = math.nan, math.inf


def compare(original: Tensor, compiled: Tensor) -> OutputComparison:
    tally = OutputTally()
    tally.add(run(lambda: original, ()), run(lambda: compiled, ()))
    return tally.comparisons()[0]


@pytest.mark.parametrize(
    ("original", "compiled", "max_abs", "relative"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0, 0),
        ([3.0, 4.0], [3.0, 4.5], 0.5, 0.1),
        ([0.0, 0.0], [0.0, 0.0], 0, 0),
        ([0.0, 0.0], [0.0, 1e-9], 1e-9, INF),
        ([NAN, 4.0], [NAN, 4.0], 0, 0),
        ([NAN, 4.0], [NAN, 5.0], 1, 0.25),
        ([NAN, 4.0], [1.0, 4.0], INF, INF),
        ([1.0, 4.0], [NAN, 4.0], INF, INF),
        ([INF, 4.0], [INF, 4.0], 0, 0),
        ([INF, 4.0], [-INF, 4.0], INF, INF),
        ([INF, 4.0], [NAN, 4.0], INF, INF),
        ([1.0, 4.0], [INF, 4.0], INF, INF),
        ([INF, 4.0], [1.0, 4.0], INF, INF),
        ([NAN, NAN], [NAN, NAN], 0, 0),
        ([], [], 0, 0),
    ],
)
def test_errors(original: list[float], compiled: list[float], max_abs: float, relative: float) -> None:
    found = compare(torch.tensor(original), torch.tensor(compiled))
    assert found.max_abs_error == pytest.approx(max_abs)
    assert found.rel_error == found.worst_rel_error == pytest.approx(relative)


def test_not_finite_values_are_mentioned() -> None:
    tally, result = OutputTally(), run(lambda: torch.tensor([NAN, 1.0, INF]), ())
    tally.add(result, result)
    assert tally.warnings() == ["output: 2 values of the original are NaN or infinite"]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8), st.data())
def test_errors_are_those_of_float64(values: list[float], data: st.DataObject) -> None:
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
    others = data.draw(st.lists(numbers, min_size=len(values), max_size=len(values)))
    mine, theirs = torch.tensor(values).double(), torch.tensor(others).double()
    found = compare(mine.float(), theirs.float())
    assert found.max_abs_error == float((mine - theirs).abs().max())
    if float(mine.norm()) > 0:
        assert found.rel_error == pytest.approx(float((mine - theirs).norm() / mine.norm()), rel=1e-9)


def test_small_differences_of_large_numbers_are_seen() -> None:
    large = torch.full((1000,), 1.0, dtype=torch.float64)
    assert compare(large, large + 1e-12).rel_error == pytest.approx(1e-12, rel=1e-3)
    whole = torch.tensor([2**60])
    assert compare(whole, whole + 1).max_abs_error == 1
    assert compare(torch.tensor([True, False]), torch.tensor([True, True])).max_abs_error == 1
    assert compare(torch.tensor([1 + 1j]), torch.tensor([1 + 2j])).max_abs_error == 1


def test_norm_does_not_overflow() -> None:
    assert norm(torch.tensor([3e200, 4e200], dtype=torch.float64)) == pytest.approx(5e200)
    assert norm(torch.empty(0, dtype=torch.float64)) == 0
    difference, reference = difference_of(torch.tensor([1e38]), torch.tensor([-3e38]))
    assert float(difference) == pytest.approx(4e38) and float(reference) == pytest.approx(1e38)


def test_agreement() -> None:
    original = torch.eye(4, 8)
    compiled = original.clone()
    compiled[0, 7] = 2
    found = compare(original, compiled)
    assert found.agreement == 0.75 and found.top5_agreement is not None


def test_top5_is_the_mean_overlap() -> None:
    original = torch.arange(10.0).expand(2, 10).clone()
    compiled = original.clone()
    compiled[1, :2] = 20  # two of the best five are others
    found = compare(original, compiled)
    assert found.agreement == 0.5 and found.top5_agreement == pytest.approx((1 + 3 / 5) / 2)


@pytest.mark.parametrize(
    ("shape", "ranked"), [((3, 2), True), ((3, 1), False), ((3,), False), ((3, 4, 5), False), ((3, 5), True)]
)
def test_what_counts_as_class_scores(shape: tuple[int, ...], ranked: bool) -> None:
    found = compare(torch.randn(shape), torch.randn(shape))
    assert (found.agreement is not None) == ranked and found.top5_agreement is None
    assert compare(torch.ones(shape, dtype=torch.int64), torch.ones(shape, dtype=torch.int64)).agreement is None


def test_rows_with_nan_agree_only_if_they_are_the_same() -> None:
    row = torch.tensor([[1.0, NAN, 3.0, 0.0, 0.0, 0.0]])
    assert compare(row, row).agreement == compare(row, row).top5_agreement == 1
    # PyTorch's argmax is the NaN's place in both.
    other = torch.tensor([[2.0, NAN, 3.0, 0.0, 0.0, 0.0]])
    assert compare(row, other).agreement == compare(row, other).top5_agreement == 0
    assert compare(row.nan_to_num(9.0), row).agreement == 0
