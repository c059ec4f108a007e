"""Choosing layers' options within an error of the outputs: against all combinations, and on a network."""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from haste_compiler.graph.capture import capture
from haste_compiler.graph.nodes import is_call
from haste_compiler.methods.output_budget import Budgeted, Layer, Option, _picked, within_output_error
from haste_compiler.methods.traced import Traced
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.passes.pipeline import rewrite

X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))

NOISES = (1e-2, 1e-3)
"""Relative errors of the options of a layer, the faster one first."""


def options(*seconds: float) -> Any:
    return [Option(each, number, lambda _: torch.zeros(())) for number, each in enumerate(seconds)]


PAIRS = st.lists(st.tuples(st.floats(0.1, 0.9), st.floats(1e-6, 1.0)), min_size=1, max_size=3)


@given(st.lists(PAIRS, min_size=1, max_size=4), st.floats(0, 2))
def test_no_combination_saves_much_more(table: Sequence[Sequence[tuple[float, float]]], allowed: float) -> None:
    """The budget is kept, and the last step that fits can't be beaten by more than one step."""
    layers = [Layer(None, 1.0, options(*(seconds for seconds, _ in row))) for row in table]  # type: ignore[arg-type]
    squares = [[square for _, square in row] for row in table]
    picked = _picked(layers, squares, allowed)

    def outcome(choice: Sequence[int | None]) -> tuple[float, float]:
        pairs = [table[at][each] for at, each in enumerate(choice) if each is not None]
        return sum(1.0 - seconds for seconds, _ in pairs), sum(square for _, square in pairs)

    saved, used = outcome(picked)
    assert used <= allowed + 1e-9
    everything = [outcome(choice) for choice in itertools.product(*([None, *range(len(row))] for row in table))]
    best = max(gain for gain, error in everything if error <= allowed)
    largest = max(1.0 - seconds for row in table for seconds, _ in row)
    assert saved >= best - largest - 1e-9


def noisy(run: Traced, node: Any, noise: float, values: Any) -> Tensor:
    value = run.values[node]
    drawn = torch.randn(value.shape, generator=torch.Generator().manual_seed(len(str(node))))
    return value + noise * value.norm() / drawn.norm() * drawn


@pytest.fixture(scope="module")
def run() -> tuple[Traced, list[Layer]]:
    torch.manual_seed(0)
    convs = [nn.Conv2d(3, 8, 3), *(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))]
    model = nn.Sequential(*(part for conv in convs for part in (conv, nn.ReLU())), nn.Flatten(), nn.Linear(8 * 196, 40))
    gm = rewrite(capture(model.eval(), (X,)))
    nodes = [node for node in gm.graph.nodes if is_call(node, CONV2D)]
    made = Traced(gm, nodes, [X])

    def offered(node: fx.Node) -> list[Option]:
        return [Option(0.5 + 0.1 * at, at, partial(noisy, made, node, noise)) for at, noise in enumerate(NOISES)]

    return made, [Layer(node, 1.0, offered(node)) for node in nodes]


def found(run: tuple[Traced, list[Layer]], limit: float) -> Budgeted:
    return within_output_error(*run, limit)


@pytest.mark.parametrize("limit", [1.0, 0.01, 3e-3, 1e-3, 2e-4])
def test_the_limit_is_kept_and_what_is_told_is_what_running_the_choices_gives(
    run: tuple[Traced, list[Layer]], limit: float
) -> None:
    result = found(run, limit)
    traced, layers = run
    pairs = zip(layers, result.picked, strict=True)
    computes = {layer.node: layer.options[each].compute for layer, each in pairs if each is not None}
    assert traced.error(traced.run_with(computes)) == pytest.approx(result.error)
    assert result.error <= limit


def test_more_is_saved_where_more_is_allowed(run: tuple[Traced, list[Layer]]) -> None:
    def saved(limit: float) -> float:
        pairs = zip(run[1], found(run, limit).picked, strict=True)
        return sum(1.0 - layer.options[each].seconds for layer, each in pairs if each is not None)

    savings = [saved(limit) for limit in (0.0, 1e-4, 1e-3, 1e-2, math.inf)]
    assert savings == sorted(savings) and savings[0] == 0 and savings[-1] == pytest.approx(2.5)


def test_shares_of_layers_are_near_what_each_does_alone(run: tuple[Traced, list[Layer]]) -> None:
    traced, layers = run
    for layer, shares in zip(layers, found(run, 1.0).shares, strict=True):
        for option, share in zip(layer.options, shares, strict=True):
            alone = traced.error(traced.run_with({layer.node: option.compute}))
            assert 0.4 * alone < share < 2.5 * alone


def test_an_option_that_breaks_the_outputs_is_not_taken(run: tuple[Traced, list[Layer]]) -> None:
    traced, layers = run
    node = layers[0].node
    broken = Option(0.1, 0, lambda _: torch.full_like(traced.values[node], math.nan))
    assert within_output_error(traced, [Layer(node, 1.0, [broken]), *layers[1:]], 1.0).picked[0] is None
