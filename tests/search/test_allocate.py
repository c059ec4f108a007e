"""frontier(): compared with trying every combination."""

import itertools

import pytest
import torch
from torch import Tensor

from haste_compiler.search.allocate import Allocation, frontier, rivals
from haste_compiler.search.sensitivity import Point, Unit

UNITS = [Unit("haste", (name,), cost, cost) for name, cost in (("a", 10.0), ("b", 20.0), ("c", 5.0))]


def point(unit: Unit, cost: float, change: Tensor) -> Point:
    return Point(unit, 4, (1, 0.1, 0.1), cost, change, torch.empty(0))


def products(points: list[Point]) -> Tensor:
    changes = torch.stack([point.change for point in points]).double()
    return changes @ changes.T


def total(allocation: Allocation) -> tuple[float, float]:
    chosen = [point for point in allocation.values() if point is not None]
    cost = 35.0 - sum(point.unit.cost - point.cost for point in chosen)
    return cost, float(sum((point.change for point in chosen), torch.zeros(())).square().sum())


def combinations(points: list[Point]) -> list[Allocation]:
    choices = [[None, *(point for point in points if point.unit == unit)] for unit in UNITS]
    return [dict(zip(UNITS, chosen, strict=True)) for chosen in itertools.product(*choices)]


@pytest.mark.parametrize("seed", range(5))
def test_orthogonal_changes_no_combination_beats_the_frontier(seed: int) -> None:
    numbers = torch.rand(len(UNITS), 5, 2, generator=torch.Generator().manual_seed(seed))
    points = [
        # Costs reach above the dense one: such points must never be taken.
        point(unit, float(cost) * 1.2 * unit.cost, harm * torch.eye(3)[number])
        for number, (unit, row) in enumerate(zip(UNITS, numbers, strict=True))
        for cost, harm in row
    ]
    corners = [total(allocation) for allocation in frontier(UNITS, points, products(points))]
    everything = [total(allocation) for allocation in combinations(points)]
    assert corners[0] == (35.0, 0.0)
    assert len(corners) > 3
    for corner_cost, corner_harm in corners:
        assert not any(cost < corner_cost - 1e-6 and harm < corner_harm - 1e-6 for cost, harm in everything)
    assert corners[-1][0] == pytest.approx(min(cost for cost, _ in everything))


def test_changes_that_cancel_are_taken_together() -> None:
    """Alone, each does harm; the two together do none."""
    push = torch.tensor([1.0, 0.0, 0.0])
    points = [point(UNITS[0], 5.0, push), point(UNITS[1], 10.0, -push), point(UNITS[2], 1.0, 0.9 * torch.eye(3)[1])]
    found = [total(allocation) for allocation in frontier(UNITS, points, products(points))]
    assert (20.0, 0.0) in found


def test_a_unit_that_never_saves_stays_dense() -> None:
    dear = [point(UNITS[0], 11.0, torch.zeros(3))]
    assert frontier(UNITS, dear, products(dear)) == [{}]


def test_layers_that_two_methods_could_take_are_given_to_one() -> None:
    """One saves less and does less harm, the other saves more."""
    other = Unit("other", ("a", "d"), 12.0, 12.0)
    assert rivals([*UNITS, other]) == [{UNITS[0], other}, {UNITS[1]}, {UNITS[2]}]
    first, second = torch.tensor([0.1, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    points = [point(UNITS[0], 5.0, first), point(other, 1.0, second), point(UNITS[1], 10.0, first)]
    found = frontier([*UNITS, other], points, products(points))
    assert all(not {UNITS[0], other} <= allocation.keys() for allocation in found)
    assert UNITS[0] in found[-2] and other in found[-1]
