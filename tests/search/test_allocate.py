"""frontier(): compared with trying every combination."""

import itertools

import pytest
import torch

from haste_compiler.haste.settings import Settings
from haste_compiler.search.allocate import Allocation, frontier
from haste_compiler.search.sensitivity import Point, Unit

UNITS = [Unit((name,), cost, cost) for name, cost in (("a", 10.0), ("b", 20.0), ("c", 5.0))]


def random_points(seed: int) -> list[Point]:
    numbers = torch.rand(len(UNITS), 5, 2, generator=torch.Generator().manual_seed(seed))
    return [
        # Costs reach above the dense one: such points must never be taken.
        Point(unit, 4, Settings(i + 1, 0.1, 0.1), float(cost) * 1.2 * unit.cost, float(harm), torch.empty(0))
        for unit, row in zip(UNITS, numbers, strict=True)
        for i, (cost, harm) in enumerate(row)
    ]


def total(allocation: Allocation) -> tuple[float, float]:
    cost = sum(unit.cost if point is None else point.cost for unit, point in allocation.items())
    return cost, sum(point.error for point in allocation.values() if point is not None)


@pytest.mark.parametrize("seed", range(5))
def test_no_combination_lies_below_the_frontier(seed: int) -> None:
    points = random_points(seed)
    corners = [total(allocation) for allocation in frontier(UNITS, points, lambda point: point.error)]
    choices = [[None, *(point for point in points if point.unit == unit)] for unit in UNITS]
    combinations = [total(dict(zip(UNITS, chosen, strict=True))) for chosen in itertools.product(*choices)]
    assert corners[0] == (35.0, 0.0)
    assert len(corners) > 3
    for (cost, harm), (next_cost, next_harm) in itertools.pairwise(corners):
        assert next_cost < cost
        assert next_harm >= harm
        for other_cost, other_harm in combinations:
            # Above the line through two neighbouring corners, anywhere: it is a lower convex hull.
            slope = (next_harm - harm) / (next_cost - cost)
            assert other_harm >= harm + slope * (other_cost - cost) - 1e-9
    assert corners[-1][0] == pytest.approx(min(cost for cost, _ in combinations))


def test_a_unit_that_never_saves_stays_dense() -> None:
    dear = [Point(UNITS[0], 4, Settings(1, 0.0, 0.0), 11.0, 0.0, torch.empty(0))]
    assert frontier(UNITS, dear, lambda point: point.error) == [dict.fromkeys(UNITS)]
