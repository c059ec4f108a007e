"""Which attentions merge tokens, how many, and why others don't."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from haste_compiler.graph.nodes import copy_module, is_call, layer_name, shape_of
from haste_compiler.methods.method import Site, Verdict
from haste_compiler.methods.prediction import CHOICE, is_open, is_taken
from haste_compiler.methods.tokens.attention import Stream, UnfitError, attentions, check_batch, fixed_tokens, stream_of
from haste_compiler.methods.tokens.config import NAME, TokenConfig
from haste_compiler.methods.tokens.local import LocalMerging, why_not
from haste_compiler.methods.tokens.schedule import merged_at_once, merged_in
from haste_compiler.methods.tokens.spread import Merged, Merging, Spread

aten = torch.ops.aten

VERDICT = "token_verdict"
"""Where the ``meta`` of attention keeps what the method says of it."""


@dataclass(frozen=True)
class Plan:
    """What merges in a graph.

    Attributes:
        mergings: by attention, in order: all of them local, or none.
        unfit: by attention, why nothing merges.
    """

    mergings: dict[fx.Node, Merging] | dict[fx.Node, LocalMerging]
    unfit: dict[fx.Node, str]


def sites(gm: fx.GraphModule, config: TokenConfig) -> list[Site]:
    """The attentions behind which tokens merge, each by itself; the others are told why not."""
    made = plan(gm, config)
    for node, reason in made.unfit.items():
        node.meta[VERDICT] = Verdict(False, reason, None)
    found = []
    for node in made.mergings:
        own = config.for_layer(layer_name(node))
        if is_open(node.meta.get(CHOICE), NAME):
            found.append(Site(NAME, (node,), () if own.cost_model else (node,), own))
    return found


def chosen(gm: fx.GraphModule, config: TokenConfig) -> list[Merging | LocalMerging]:
    """What merges: where it was chosen, or may be if nothing was."""
    merging = plan(gm, config).mergings.items()
    return [each for node, each in merging if CHOICE not in node.meta or is_taken(node.meta[CHOICE], NAME)]


def plan(gm: fx.GraphModule, config: TokenConfig) -> Plan:
    """What merges where."""
    return _running(gm, config) if config.mode == "running" else _local(gm, config)


def _running(gm: fx.GraphModule, config: TokenConfig) -> Plan:
    """The same of tokens that stay merged: they merge in a copy of the graph until nothing has to be taken back."""
    mergings, unfit = _candidates(gm, config)
    while mergings:
        refused = _refused(gm, mergings)
        if not refused:
            break
        unfit |= refused
        mergings = {node: merging for node, merging in mergings.items() if node not in refused}
    return Plan(mergings, unfit)


def judge(node: fx.Node) -> Verdict | None:
    """What the method says of attention that stays as it is, or of a call that merges; None: nothing."""
    found: Verdict | None = node.meta.get(VERDICT)
    return found


def _candidates(gm: fx.GraphModule, config: TokenConfig) -> tuple[dict[fx.Node, Merging], dict[fx.Node, str]]:
    """What the configuration asks for where the graph looks like it, and why it is not asked for elsewhere."""
    unfit, groups = dict[fx.Node, str](), dict[fx.Node, list[tuple[fx.Node, Stream]]]()
    for place, node in enumerate(attentions(gm)):
        own = config.for_layer(layer_name(node))
        try:
            if reason := _left_out(own, place):
                raise UnfitError(reason)
            check_batch(node)
            stream = stream_of(node)
        except UnfitError as error:
            unfit[node] = str(error)
        else:
            groups.setdefault(stream.origin, []).append((node, stream))
    mergings = dict[fx.Node, Merging]()
    for group in groups.values():
        for layer, (node, stream) in enumerate(group):
            own = config.for_layer(layer_name(node))
            protected = stream.fixed if own.protected is None else own.protected
            wanted = merged_in(own, shape_of(stream.join)[1], protected, len(group), layer)
            if wanted:
                mergings[node] = Merging(node, stream, wanted, protected)
            else:
                unfit[node] = "nothing is to merge here"
    return mergings, unfit


def _local(gm: fx.GraphModule, config: TokenConfig) -> Plan:
    """The same of tokens that are copied back."""
    mergings, unfit = dict[fx.Node, LocalMerging](), dict[fx.Node, str]()
    for place, node in enumerate(attentions(gm)):
        own = config.for_layer(layer_name(node))
        reason = _left_out(own, place) or why_not(node)
        if not reason:
            tokens = shape_of(node)[-2]
            protected = fixed_tokens(node) if own.protected is None else own.protected
            merging = LocalMerging(node, merged_at_once(own, tokens, protected), protected)
            if not merging.count:
                reason = "nothing is to merge here"
            elif own.cost_model and not merging.pays():
                reason = f"matching and copying {tokens} tokens take more than is saved"
        if reason:
            unfit[node] = reason
        else:
            mergings[node] = merging
    return Plan(mergings, unfit)


def _left_out(config: TokenConfig, place: int) -> str:
    """Why the configuration of an attention, one of so many, leaves it out; empty where it doesn't."""
    if not config.enabled:
        return "disabled by the configuration"
    return "it comes before the layers in which tokens merge" if place < config.start else ""


def _refused(gm: fx.GraphModule, mergings: dict[fx.Node, Merging]) -> dict[fx.Node, str]:
    """Which of some mergings gain nothing, and why."""
    copied = copy_module(gm)
    twin = dict(zip(gm.graph.nodes, copied.graph.nodes, strict=True))
    own = {twin[node]: node for node in mergings}
    spread = Spread(copied)
    spread.run([merging.on(twin) for merging in mergings.values()])
    refused = {own[node]: reason for node, reason in spread.unfit.items()}
    for merged in spread.merged:
        later = [twin[node] for node, each in mergings.items() if each.stream.origin is merged.merging.stream.origin]
        reason = _useless(merged, later[later.index(merged.merging.attention) + 1 :])
        if reason:
            refused[own[merged.merging.attention]] = reason
    return refused


def _useless(merged: Merged, later: Sequence[fx.Node]) -> str:
    """Why merging is not worth it; empty where it is.

    Args:
        merged: what merged.
        later: attention to the same tokens.
    """
    reached = any(is_call(each, aten.scaled_dot_product_attention.default) for each in merged.products)
    if not merged.products or (later and not reached):
        return f"its tokens are needed apart: {merged.obstacle or 'no layer comes after them'}"
    return ""
