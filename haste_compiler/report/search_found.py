"""What a report reads of a search's result, and the same from the file that one was written to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from haste_compiler.errors import InputError, first_line


class Point(Protocol):
    """A configuration that was measured: see ``ParetoPoint``."""

    @property
    def mac_reduction(self) -> float:
        """Net part of the multiply-adds that is saved."""

    @property
    def output_error(self) -> float:
        """Relative error of the outputs."""

    @property
    def agreement(self) -> float | None:
        """Part of the images whose class is the original's."""

    @property
    def latency(self) -> float | None:
        """Milliseconds an image."""


class SearchFound(Protocol):
    """A search's result: see ``SearchResult``."""

    @property
    def pareto(self) -> Sequence[Point]:
        """Points that none beats, by rising reduction."""

    @property
    def chosen(self) -> Point:
        """One of them."""


@dataclass(frozen=True)
class _Point:
    mac_reduction: float
    output_error: float
    agreement: float | None
    latency: float | None


@dataclass(frozen=True)
class _Search:
    pareto: tuple[_Point, ...]
    chosen: _Point


def read_search(path: Path) -> SearchFound:
    """A search's result from what ``SearchResult.to_json`` wrote.

    Raises:
        InputError: the file holds something else.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        points = tuple(_Point(*(each[name] for name in _Point.__dataclass_fields__)) for each in stored["pareto"])
        return _Search(points, points[stored["chosen"]])
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise InputError(f"{path} is no result of a search: {first_line(error)}") from None
