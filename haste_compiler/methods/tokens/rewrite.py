"""Tokens merge at the attentions that were chosen, behind them or within."""

from __future__ import annotations

from torch import fx

from haste_compiler.graph.nodes import finish, layer_name, shape_of
from haste_compiler.methods.layers import OWNER
from haste_compiler.methods.method import Verdict
from haste_compiler.methods.prediction import CHOICE
from haste_compiler.methods.tokens.attention import attentions
from haste_compiler.methods.tokens.config import NAME, TokenConfig
from haste_compiler.methods.tokens.local import LocalMerging, merge_within
from haste_compiler.methods.tokens.ops.token_merge import TokenMergeCall
from haste_compiler.methods.tokens.record import counted, leave_local_records, leave_records
from haste_compiler.methods.tokens.sites import VERDICT, chosen
from haste_compiler.methods.tokens.spread import Merging, Spread


def check_layers(gm: fx.GraphModule, config: TokenConfig) -> None:
    """Check that every override matches an attention.

    Raises:
        ConfigError: one doesn't.
    """
    config.check_layers(map(layer_name, attentions(gm)))


def rewrite_tokens(gm: fx.GraphModule, config: TokenConfig) -> fx.GraphModule:
    """Let tokens merge at every attention that was chosen; without choices, at every one where they may.

    Args:
        gm: a graph that the passes went over.
        config: how many, where, and for how long.
    """
    mergings, before = chosen(gm, config), counted(gm)
    spread = Spread(gm)
    spread.run(each for each in mergings if isinstance(each, Merging))
    within = [merge_within(gm, each) for each in mergings if isinstance(each, LocalMerging)]
    after = counted(gm)
    leave_records(spread.merged, before, after)
    leave_local_records(within, before, after)
    for merged in spread.merged:
        _own(merged.call, merged.merging.attention, "merge behind it")
    for each in within:
        _own(each.call, each.merging.attention, "merge within it")
    return finish(gm)


def _own(call: fx.Node, attention: fx.Node, how: str) -> None:
    """Let a call that merges stand for what the method does at an attention, which others may take."""
    tokens, kept = shape_of(call.args[0])[1], TokenMergeCall.of(call).merged_to  # type: ignore[arg-type]
    verdict = Verdict(True, f"{tokens - kept} of {tokens} tokens {how}", None)
    call.meta |= {"layer": layer_name(attention), OWNER: NAME, VERDICT: verdict}
    if CHOICE in attention.meta:
        call.meta[CHOICE] = attention.meta.pop(CHOICE)
