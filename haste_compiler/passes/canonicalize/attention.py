"""What attention adds to scores: zero and minus infinity where a mask says which keys are seen."""

from __future__ import annotations

import math

import torch
from torch import fx

from haste_compiler.graph.nodes import add_tensor, argument, get_tensor, insert_call, is_constant, is_tensor, layer_name
from haste_compiler.passes.canonicalize.rewrite import Rewrites

aten = torch.ops.aten


def _attention(gm: fx.GraphModule, node: fx.Node) -> None:
    mask = argument(node, 3, "attn_mask")
    if not is_tensor(mask) or mask.meta["val"].dtype != torch.bool or mask.meta["val"].dim() == 0:
        return
    name = f"{layer_name(node)}.mask"
    zero, nothing = torch.tensor(0.0), torch.tensor(-math.inf)
    if is_constant(mask):
        added = add_tensor(gm, name, torch.where(get_tensor(gm, mask), zero, nothing), node)
    else:
        values = [add_tensor(gm, f"{name}_{label}", value, node) for label, value in (("zero", zero), ("no", nothing))]
        added = insert_call(gm, aten.where.self, (mask, *values), node)
    node.replace_input_with(mask, added)


REWRITES: Rewrites = {aten.scaled_dot_product_attention.default: _attention}
