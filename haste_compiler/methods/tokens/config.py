"""``TokenConfig``: how many tokens merge, by which rule, where, and for how long."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from haste_compiler.errors import ConfigError
from haste_compiler.methods.config import MethodConfig, integer, matches_layer, non_negative, one_of

NAME = "tokens"
"""The method's name."""

MODES = ("running", "local")
"""For how long tokens stay merged: to the network's end, or within one attention."""

SCHEDULES = ("constant", "falling")
"""How merging is spread over the layers."""

DEFAULT_KEEP = 0.5
"""The share of tokens that is kept where nothing is said."""

OFFERED_KEEPS = (0.25, 0.5, 0.75, 1.0)
"""Shares that somebody who compares is offered."""

_MOST = 1 << 20


@dataclass(frozen=True, eq=False)
class TokenConfig(MethodConfig):
    """How the tokens of a network's attention merge, by ToMe's bipartite matching. Immutable, JSON-able.

    Attributes:
        enabled: False merges nothing.
        mode: "running": behind each attention its most similar tokens merge, and stay merged in the layers after it, as
            published. "local": queries, keys and values merge before an attention and its result is copied back, so
            that all shapes outside stay; for dense outputs.
        keep: the share of the tokens that is left (more than 0, at most 1): running, behind the last attention; local,
            in each. None: ``r`` says it, or 0.5 if that is None too.
        r: how many tokens merge in each attention (at least 0). Either way at most half of the tokens that aren't
            protected do.
        schedule: running: "constant", as many in every layer; "falling", twice as many in the first, linearly fewer
            down to none in the last.
        start: how many of the network's first attentions merge nothing.
        protected: how many of the first tokens never merge. None: those that are the same for every image, such as
            class and register tokens.
        cost_model: local: True lets tokens merge only where that saves clearly more than matching and copying take.
        layers: overrides, from an attention's qualified name or an ``fnmatch`` pattern of it to the fields that differ
            there, e.g. ``{"blocks.11.attn": {"enabled": False}}``. Later entries win.

    Raises:
        ConfigError: a value is out of range, of the wrong type, or an override names an unknown field.
    """

    METHOD = NAME

    enabled: bool = True
    mode: str = "running"
    keep: float | None = None
    r: int | None = None
    schedule: str = "constant"
    start: int = 0
    protected: int | None = None
    cost_model: bool = True
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def check(self) -> None:
        """See ``MethodConfig``."""
        one_of("mode", self.mode, MODES)
        one_of("schedule", self.schedule, SCHEDULES)
        if self.keep is not None and self.r is not None:
            raise ConfigError(f"keep is {self.keep} and r is {self.r}: allowed is one of the two")
        if self.keep is not None:
            keep = non_negative("keep", self.keep, " (None leaves it to r)")
            if not 0 < keep <= 1:
                raise ConfigError(f"keep must be more than 0 and at most 1, not {keep}")
            self.set("keep", keep)
        if isinstance(self.layers, Mapping) and any("mode" in own for own in self.layers.values()):
            raise ConfigError("layers: mode is the whole network's, and no layer has its own")
        for name in ("r", "start", "protected"):
            if getattr(self, name) is not None:
                self.set(name, integer(name, getattr(self, name), 0, _MOST))

    def for_layer(self, name: str) -> TokenConfig:
        """See ``MethodConfig``; an override of one of ``keep`` and ``r`` takes the other's place."""
        changes: dict[str, Any] = {"layers": {}}
        for pattern, override in self.layers.items():
            if matches_layer(pattern, name):
                amounts = dict.fromkeys(("keep", "r")) if {"keep", "r"} & override.keys() else {}
                changes |= {**amounts, **override}
        return dataclasses.replace(self, **changes)


CONFIG = TokenConfig
"""What the method is configured with."""
