"""Multiply-adds of a layer, by what they are spent on."""

from __future__ import annotations

from collections.abc import Mapping


class MacCount:
    """Multiply-adds of one layer on one batch; counts add up with ``+``.

    What they are spent on is named by whoever counts: a plain layer's are all ``convolution``, a method adds its
    overheads. Each is read as an attribute: ``macs.convolution``.

    Args:
        dense: what the plain layer takes; not part of what is spent.
        parts: what is spent, by what it is spent on.
    """

    def __init__(self, dense: int = 0, **parts: int) -> None:
        self.dense, self.parts = dense, parts

    def __getattr__(self, name: str) -> int:
        parts: Mapping[str, int] = self.__dict__.get("parts", {})
        if name not in parts:
            raise AttributeError(f"nothing is spent on {name!r}: it is {', '.join(parts) or 'nothing'}")
        return parts[name]

    @property
    def spent(self) -> int:
        """All multiply-adds done."""
        return sum(self.parts.values())

    @property
    def overheads(self) -> dict[str, int]:
        """What is spent on anything but the layer's own products, by what that is."""
        return {name: count for name, count in self.parts.items() if name != "convolution"}

    @property
    def overhead(self) -> int:
        """The sum of the overheads."""
        return sum(self.overheads.values())

    @property
    def reduction(self) -> float:
        """Net part of the dense multiply-adds that is saved: at most 1, negative where the overhead is larger."""
        return 1 - self.spent / self.dense if self.dense else 0.0

    def replace(self, **parts: int) -> MacCount:
        """The same count with other numbers for some parts."""
        return MacCount(self.dense, **{**self.parts, **parts})

    def to_dict(self) -> dict[str, int | float]:
        """All numbers: dense, the parts, their sum and the net reduction."""
        return {"dense": self.dense, **self.parts, "spent": self.spent, "reduction": self.reduction}

    def __add__(self, other: MacCount) -> MacCount:
        names = dict.fromkeys([*self.parts, *other.parts])
        return MacCount(
            self.dense + other.dense, **{name: self.parts.get(name, 0) + other.parts.get(name, 0) for name in names}
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MacCount):
            return NotImplemented
        names = {*self.parts, *other.parts}
        same = all(self.parts.get(name, 0) == other.parts.get(name, 0) for name in names)
        return self.dense == other.dense and same

    def __hash__(self) -> int:
        return hash((self.dense, frozenset((name, count) for name, count in self.parts.items() if count)))

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={count}" for name, count in {"dense": self.dense, **self.parts}.items())
        return f"MacCount({numbers})"
