"""What a search is asked for, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from haste_compiler.codegen.target import TargetLike
from haste_compiler.errors import InputError
from haste_compiler.methods.configs import ConfigLike, Configs
from haste_compiler.methods.method import Method
from haste_compiler.search.budget import Budget


@dataclass(frozen=True)
class Options:
    """How a search is done.

    Attributes:
        budget: to be kept.
        save: "macs" or "time": what a budget on quality is spent on.
        configs: of the methods that are searched, without what the search decides.
        target: compiled for.
        threads: that a call uses.
        confidence: of keeping the budget.
        given: settings that are tried instead of a method's own; None: those.

    Raises:
        InputError: one is out of range, or they contradict each other.
    """

    budget: Budget
    save: str
    configs: Configs
    target: TargetLike
    threads: int
    confidence: float
    given: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        """Check them."""
        if not 0.5 <= self.confidence <= 0.999:
            raise InputError(f"confidence is {self.confidence!r}: allowed is 0.5 to 0.999")
        if self.save not in ("macs", "time"):
            raise InputError(f"save is {self.save!r}: allowed are 'macs' and 'time'")
        if self.save == "time" and self.budget.kind == "target_macs":
            raise InputError("target_macs asks for multiply-adds: save='time' goes with a budget on quality")

    @property
    def timed(self) -> bool:
        """Whether time is saved, not multiply-adds."""
        return self.save == "time" or self.budget.kind == "target_latency"

    def settings(self, method: Method) -> Sequence[Any]:
        """What is compiled in and tried of a method, each for a compilation."""
        own = list(method.settings(self.timed))
        return self.given if self.given and method.OTHER_SETTINGS else own


def searched_configs(config: ConfigLike, seed: int, timed: bool) -> Configs:
    """The configurations of the methods that are searched, without what a search decides.

    Args:
        config: as ``compile`` takes it; None: the defaults of the methods that can be searched.
        seed: of those that are configured with one, unless ``config`` is given.
        timed: whether time is to be saved.

    Raises:
        ConfigError: ``config`` is none.
        InputError: it has a method that can't be searched, or none at all.
    """
    configs = Configs.of(config)
    if config is None:
        known = [each for method, each in configs if _can_be_searched(method, timed)]
        configs = Configs(tuple(each.replace(seed=seed) if "seed" in each.fields() else each for each in known))
    for method, _ in configs:
        if not _can_be_searched(method, timed):
            what = "time" if timed else "multiply-adds"
            raise InputError(f"config has {method.TITLE}, of which a search has nothing to try to save {what}")
    if not configs.all:
        raise InputError("config has no method: a search has nothing to try")
    return Configs(tuple(method.searched(each) for method, each in configs))


def _can_be_searched(method: Method, timed: bool) -> bool:
    return bool(method.ladder()) and bool(method.settings(timed))
