"""Which code runs at which sizes, with functions in place of networks."""

from collections.abc import Sequence
from typing import Any

from haste_compiler.dynamo.compiled import CompiledGraph


def named(name: str) -> Any:
    def run(*args: Any) -> Sequence[Any]:
        return [name]

    return run


def graph(measure: bool, ours: Any = None) -> CompiledGraph:
    """A graph of arguments (batch, side)."""
    return CompiledGraph(ours or named("ours"), named("other"), (0, 1), 0, measure)


def test_without_measuring_ours_runs_at_any_batch() -> None:
    compiled = graph(measure=False)
    assert [compiled(batch, 32) for batch in (1, 2, 9)] == [["ours"]] * 3


def test_no_more_than_four_image_sizes_are_compiled_for() -> None:
    compiled = graph(measure=False)
    names = [compiled(1, side)[0] for side in range(32, 40)]
    assert names == ["ours"] * 4 + ["other"] * 4
    # Those that are stay so.
    assert compiled(1, 33) == ["ours"] and compiled(4, 33) == ["ours"]


def test_an_image_size_is_compiled_for_when_it_recurs() -> None:
    calls: list[int] = []

    def ours(batch: int, side: int) -> Sequence[Any]:
        calls.append(side)
        return ["ours"]

    compiled = graph(measure=True, ours=ours)
    compiled(1, 32)
    calls.clear()
    compiled(1, 48)
    compiled(2, 48)
    assert calls == []
    compiled(1, 48)
    assert set(calls) == {48}


def test_the_slower_code_is_not_run_again() -> None:
    calls = 0

    def slow(batch: int, side: int) -> Sequence[Any]:
        nonlocal calls
        calls += 1
        return [sum(range(20_000))]

    compiled = graph(measure=True, ours=slow)
    assert compiled(1, 32) == ["other"]
    before = calls
    assert [compiled(1, 32) for _ in range(3)] == [["other"]] * 3 and calls == before
