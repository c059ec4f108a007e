"""Tokens merge behind the attentions that were chosen, and what comes after computes fewer."""

from __future__ import annotations

from torch import fx

from haste_compiler.graph.nodes import finish, layer_name, shape_of
from haste_compiler.methods.layers import OWNER
from haste_compiler.methods.method import Verdict
from haste_compiler.methods.prediction import CHOICE
from haste_compiler.methods.tokens.attention import attentions
from haste_compiler.methods.tokens.config import NAME, TokenConfig
from haste_compiler.methods.tokens.record import counted, leave_records
from haste_compiler.methods.tokens.sites import VERDICT, chosen
from haste_compiler.methods.tokens.spread import Spread


def check_layers(gm: fx.GraphModule, config: TokenConfig) -> None:
    """Check that every override matches an attention.

    Raises:
        ConfigError: one doesn't.
    """
    config.check_layers(map(layer_name, attentions(gm)))


def rewrite_tokens(gm: fx.GraphModule, config: TokenConfig) -> fx.GraphModule:
    """Let tokens merge behind every attention that was chosen; without choices, behind every one that they may.

    Args:
        gm: a graph that the passes went over.
        config: how many, and where.
    """
    mergings, spread, before = chosen(gm, config), Spread(gm), counted(gm)
    spread.run(mergings)
    leave_records(spread.merged, before, counted(gm))
    for merged in spread.merged:
        attention = merged.merging.attention
        kept, tokens = merged.counts.after, shape_of(merged.merging.stream.join)[1]
        verdict = Verdict(True, f"{tokens - kept} of {tokens} tokens merge behind it", None)
        merged.call.meta |= {"layer": layer_name(attention), OWNER: NAME, VERDICT: verdict}
        if CHOICE in attention.meta:
            merged.call.meta[CHOICE] = attention.meta.pop(CHOICE)
    return finish(gm)
