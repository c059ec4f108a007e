"""Which convolutions read rounded values, and ``haste::conv2d(x, ...)`` -> ``haste::conv2d(round(x), ...)``."""

from __future__ import annotations

import torch
from torch import fx

from haste_compiler.graph.nodes import add_tensor, finish, is_call, layer_name
from haste_compiler.methods.layers import OWNER
from haste_compiler.methods.method import Site, Verdict
from haste_compiler.methods.prediction import CHOICE, is_open, is_taken
from haste_compiler.ops.conv2d import CONV2D, ConvCall
from tests.methods.toy.config import ToyConfig
from tests.methods.toy.operator import RoundCall

NAME = "toy"


def sites(gm: fx.GraphModule, config: ToyConfig) -> list[Site]:
    """The convolutions that are to read rounded values, each by itself."""
    found = []
    for node in gm.graph.nodes:
        own, choice = config.for_layer(layer_name(node)), node.meta.get(CHOICE)
        wanted = is_taken(choice, NAME) or (own.enabled and is_open(choice, NAME))
        if is_call(node, CONV2D) and OWNER not in node.meta and wanted:
            found.append(Site(NAME, (node,), () if own.cost_model else (node,), own))
    return found


def judge(node: fx.Node, config: ToyConfig) -> Verdict | None:
    """What the configuration of its layer says of a convolution."""
    if not is_call(node, CONV2D):
        return None
    reason = "its input is rounded" if config.enabled else "disabled by the configuration"
    return Verdict(config.enabled, reason, ConvCall.of(node).geometry())


def rewrite(gm: fx.GraphModule, config: ToyConfig) -> fx.GraphModule:
    """Round what the chosen convolutions read; the module gets a buffer ``<layer>.settings`` for each."""
    for site in sites(gm, config):
        (conv,) = site.nodes
        name, call = layer_name(conv), ConvCall.of(conv)
        with gm.graph.inserting_before(conv):
            settings = add_tensor(gm, f"{name}.settings", torch.tensor([site.config.step]), conv)
            rounded = RoundCall(call.x, settings).insert(gm, conv)
        rounded.meta["layer"] = name
        call.replace(x=rounded).write_to(conv)
        conv.meta[OWNER] = NAME
    return finish(gm)
