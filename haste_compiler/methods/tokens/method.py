"""Merging tokens as a ``Method``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from haste_compiler.methods.method import Method, Site, Verdict
from haste_compiler.methods.tokens.config import DEFAULT_KEEP, NAME, OFFERED_KEEPS, TokenConfig
from haste_compiler.methods.tokens.statistics import TokenStats, check, read

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import fx

    from haste_compiler.codegen.machine import Machine
    from haste_compiler.codegen.program import Record
    from haste_compiler.codegen.tables import Rules
    from haste_compiler.methods.work_map import WorkMap


class Tokens(Method):
    """Tokens of attention that are most similar become one, and what comes after computes fewer."""

    NAME = NAME
    TITLE = "fewer tokens"
    CONFIG = TokenConfig
    RESHAPES = True
    NEARER = "a higher keep, or a lower r,"

    def sites(self, gm: fx.GraphModule, config: TokenConfig) -> list[Site]:
        """See ``Method``."""
        from haste_compiler.methods.tokens.sites import sites

        return sites(gm, config)

    def judge(self, node: fx.Node, config: TokenConfig) -> Verdict | None:
        """See ``Method``."""
        from haste_compiler.methods.tokens.sites import judge

        return judge(node)

    def check_layers(self, gm: fx.GraphModule, config: TokenConfig) -> None:
        """See ``Method``."""
        from haste_compiler.methods.tokens.rewrite import check_layers

        check_layers(gm, config)

    def rewrite(self, gm: fx.GraphModule, config: TokenConfig) -> fx.GraphModule:
        """See ``Method``."""
        from haste_compiler.methods.tokens.rewrite import rewrite_tokens

        return rewrite_tokens(gm, config)

    def counted(self) -> Mapping[Any, Callable[..., int]]:
        """See ``Method``."""
        from haste_compiler.methods.tokens.macs import matching_macs
        from haste_compiler.methods.tokens.ops.tome_match import TOME_MATCH

        return {TOME_MATCH.overloadpacket: matching_macs}

    def differentiable(self) -> Mapping[Any, Callable[..., Any]]:
        """See ``Method``."""
        from haste_compiler.methods.tokens.ops.token_copy import token_copy
        from haste_compiler.methods.tokens.ops.token_merge import token_merge
        from haste_compiler.methods.tokens.ops.tome_match import tome_match

        return {each._opoverload: each._init_fn for each in (tome_match, token_merge, token_copy)}

    def rules(self, machine: Machine) -> Rules:
        """See ``Method``."""
        if machine.KIND != "cpu":
            return {}
        from haste_compiler.methods.tokens.lowering import recorded
        from haste_compiler.methods.tokens.ops.token_merge import TOKEN_MERGE

        rules: Rules = importlib.import_module("haste_compiler.methods.tokens.cpu.rules").RULES
        return {**rules, TOKEN_MERGE: recorded(rules[TOKEN_MERGE])}

    def requirement(self, machine: Machine) -> str:
        """See ``Method``."""
        return "" if machine.KIND == "cpu" else f"{self.CONFIG.__name__} is for CPUs"

    def read(
        self, record: Record, values: Sequence[float], statistics: Sequence[NDArray[Any]]
    ) -> Mapping[str, TokenStats]:
        """See ``Method``."""
        return read(record, statistics)

    def work_maps(self, stats: Mapping[str, Any], shape: Sequence[int], image: int) -> Mapping[str, WorkMap]:
        """See ``Method``."""
        from haste_compiler.methods.tokens.work import work_maps

        return work_maps(stats, shape, image)

    def varied(self, config: TokenConfig) -> Mapping[str, tuple[Any, tuple[Any, ...]]]:
        """See ``Method``."""
        if not config.enabled or config.r is not None:
            return {}
        return {"keep": (DEFAULT_KEEP if config.keep is None else config.keep, OFFERED_KEEPS)}

    def check(self, record: Record) -> None:
        """See ``Method``."""
        check(record)


METHOD = Tokens()
