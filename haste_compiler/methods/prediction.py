"""What is predicted of a layer under a method, and what is decided by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHOICE = "method_choice"
"""Where a node's ``meta`` keeps the ``Choice`` that was made for it."""


@dataclass(frozen=True)
class Estimate:
    """What a layer is expected to take under a method, on some kind of input.

    Attributes:
        seconds: time of one call. Of layers that share something the first bears what that takes.
        shared: the part of it that is shared.
        kept: share of the work that is left; None where all of it is.
    """

    seconds: float
    shared: float
    kept: float | None


@dataclass(frozen=True)
class Prediction:
    """What the cost model says of one layer.

    Attributes:
        dense_seconds: time of one call of the plain layer.
        best: under the method, if next to no work is left.
        natural: on images like photographs; None where the best case isn't worth it.
        gate: numbers by which the compiled layer decides at every call whether the method pays, as the method reads
            them; empty where it doesn't.
        setting: how the method would compute the layer, as it reads it.
        note: that in words, after the times.
        refusal: why the method must not take it, in words, whatever the times are; empty where it may.
        output_error: the network's outputs' relative error (2-norm) that the layer is predicted to make alone under the
            method; None where it wasn't looked at.
        network_error: the same of all layers that the method takes, together.
    """

    dense_seconds: float
    best: Estimate
    natural: Estimate | None = None
    gate: tuple[float, ...] = ()
    setting: Any = None
    note: str = ""
    refusal: str = ""
    output_error: float | None = None
    network_error: float | None = None

    @property
    def estimates(self) -> tuple[Estimate | None, ...]:
        """Both, in the order in which they are asked for."""
        return self.best, self.natural

    def described(self, title: str, most_time: float, taken: bool) -> str:
        """In words, for a layer's reason, with the rule by which the layer stays plain.

        Args:
            title: the method's.
            most_time: share of the plain time that the method may take.
            taken: whether it takes the layer.
        """
        if self.refusal:
            return self.refusal
        found = self.natural or self.best
        share = "" if found.kept is None else f" at {'' if self.natural else 'only '}{found.kept:.0%} kept"
        said = f"predicted {_time(self.dense_seconds)} dense, {_time(found.seconds)} {title}{share}{self.note}"
        if taken:
            return said
        part = found.seconds / self.dense_seconds
        if part > most_time:
            return f"{said}: {part:.0%} of the time, {most_time:.0%} at most is taken"
        return f"{said}; with the layers that share its groups above {most_time:.0%} of the time, which is the most"


@dataclass(frozen=True)
class Choice:
    """What was decided for a node: it has one owner.

    Attributes:
        method: the name of the method that was asked.
        taken: whether the method rewrites it; otherwise it stays plain.
        prediction: by which that was decided; None: by the configuration alone.
    """

    method: str
    taken: bool
    prediction: Prediction | None = None


def is_open(choice: Choice | None, method: str) -> bool:
    """Whether a method may still take a node: nothing is decided, or another method left it."""
    return choice is None or (choice.method != method and not choice.taken)


def is_taken(choice: Choice | None, method: str) -> bool:
    """Whether a node was given to a method."""
    return choice is not None and choice.method == method and choice.taken


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-4 else f"{seconds * 1e3:.3f} ms"
