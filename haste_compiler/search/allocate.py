"""Giving every layer one of its measured settings, so that the damage is least for what is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from haste_compiler.search.sensitivity import Point, Unit

Allocation = Mapping[Unit, Point | None]
"""A point for every unit; None: it stays dense."""


@dataclass(frozen=True)
class _Step:
    """From one corner of a unit's hull to the next."""

    price: float
    unit: Unit
    point: Point


def frontier(units: Sequence[Unit], points: Sequence[Point], damage: Callable[[Point], float]) -> list[Allocation]:
    """Every allocation that minimises ``damage + price * cost`` for some price, from all dense to the cheapest.

    Damages of layers add up where they are squared errors of independent directions. Choosing one point a unit under a
    limit on the sum is then a multiple-choice knapsack problem, whose Lagrangian relaxation is solved exactly by taking
    the steps of the units' lower convex hulls in the order of damage for each multiply-add saved (Sinha and Zoltners,
    The multiple-choice knapsack problem, 1979).

    Args:
        units: all of them.
        points: measured ones, of any unit.
        damage: of one point.
    """
    steps: list[_Step] = []
    for unit in units:
        corners = _hull(unit.cost, [(point.cost, damage(point), point) for point in points if point.unit == unit])
        cost, harm = unit.cost, 0.0
        for corner_cost, corner_harm, point in corners:
            steps.append(_Step((corner_harm - harm) / (cost - corner_cost), unit, point))
            cost, harm = corner_cost, corner_harm
    # Python sorts stably: steps of one unit, whose prices rise, stay in order.
    steps.sort(key=lambda step: step.price)
    allocations: list[Allocation] = [dict.fromkeys(units)]
    for step in steps:
        allocations.append({**allocations[-1], step.unit: step.point})
    return allocations


def _hull(dense: float, points: Sequence[tuple[float, float, Point]]) -> list[tuple[float, float, Point]]:
    """Corners of the lower left convex hull that begins at (dense, 0), by falling cost."""
    corners: list[tuple[float, float, Point]] = []
    for cost, harm, point in sorted(points, key=lambda item: (item[1], item[0])):
        if cost >= (corners[-1][0] if corners else dense):
            continue
        while corners:
            before_cost, before_harm = corners[-2][:2] if len(corners) > 1 else (dense, 0.0)
            last_cost, last_harm, _ = corners[-1]
            if (last_harm - before_harm) * (last_cost - cost) < (harm - last_harm) * (before_cost - last_cost):
                break
            corners.pop()
        corners.append((cost, harm, point))
    return corners
