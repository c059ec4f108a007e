"""Giving every layer one of its measured points, so that the damage is least for what is saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import networkx as nx
import torch
from torch import Tensor

from haste_compiler.search.sensitivity import Point, Unit

Allocation = Mapping[Unit, Point | None]
"""A point for every unit; None, or no entry: it stays dense."""

_PRICES = 200
_SWEEPS = 20


def rivals(units: Sequence[Unit]) -> list[set[Unit]]:
    """Units of different methods that share layers, in order: of each set one unit at most is not dense."""
    graph = nx.Graph()
    graph.add_nodes_from(units)
    for one, other in combinations(units, 2):
        if one.method != other.method and not set(one.layers).isdisjoint(other.layers):
            graph.add_edge(one, other)
    return list(nx.connected_components(graph))


def frontier(units: Sequence[Unit], points: Sequence[Point], products: Tensor) -> list[Allocation]:
    """Allocations that minimise ``damage + price * cost``, for prices from 0 to where all that can save does.

    To first order, what points do to the outputs adds up, sign and all: layers that shrink what they pass on all push
    one way. The damage of an allocation is the square of that sum's norm, thus the sum of the inner products of all
    pairs of its points. For one price after the other, each unit in turn takes the point that is best given those of
    the others, until none changes (coordinate descent from the last price's allocation); ``rivals`` do so as one unit.
    Where points are orthogonal this is the Lagrangian relaxation of the multiple-choice knapsack problem, solved
    exactly.

    Args:
        units: all of them.
        points: measured ones, of any unit.
        products: (P, P) float64, inner product of each pair of points.

    Returns:
        The allocations by strictly falling cost; the first is all dense.
    """
    choices = [[i for i, point in enumerate(points) if point.unit in together] for together in rivals(units)]
    choices = [indices for indices in choices if indices]
    saved = torch.tensor([point.unit.cost - point.cost for point in points], dtype=torch.float64)
    dense = sum(unit.cost for unit in units)
    allocations: list[Allocation] = [{}]
    lowest = dense
    chosen: dict[int, int] = {}
    for price in _prices(products, saved):
        chosen = _descend(choices, products, price * saved, chosen)
        cost = dense - sum(float(saved[index]) for index in chosen.values())
        if cost < lowest - 1e-9 * dense:
            allocations.append({points[index].unit: points[index] for index in chosen.values()})
            lowest = cost
    return allocations


def _prices(products: Tensor, saved: Tensor) -> list[float]:
    """Prices, rising by equal factors, between which every useful point pays."""
    if not bool((saved > 0).any()):
        return []
    damage, gain = products.diag()[saved > 0], saved[saved > 0]
    ratios = (damage / gain).clamp(min=1e-12 * float((damage / gain).max()) + 1e-300)
    # All units together can do their number times the damage that each does alone, and a unit's last gain be small.
    highest = float(damage.max() / gain.min() + ratios.max()) * 2 * len(gain) + 1e-299
    low, high = torch.tensor([float(ratios.min()), highest], dtype=torch.float64).log10().tolist()
    prices: list[float] = torch.logspace(low, high, _PRICES, dtype=torch.float64).tolist()
    return prices


def _descend(
    choices: Sequence[list[int]], products: Tensor, reward: Tensor, start: Mapping[int, int]
) -> dict[int, int]:
    """For each of ``choices``, by its number, the point that is best given the others'; none: dense is."""
    chosen = dict(start)
    for _ in range(_SWEEPS):
        before = dict(chosen)
        for number, mine in enumerate(choices):
            others = [index for other, index in chosen.items() if other != number]
            loss = products.diag()[mine] - reward[mine] + 2 * products[mine][:, others].sum(dim=1)
            best = int(loss.argmin())
            if loss[best] < 0:
                chosen[number] = mine[best]
            else:
                chosen.pop(number, None)
        if chosen == before:
            break
    return chosen
