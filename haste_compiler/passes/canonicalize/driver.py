"""The pass itself: what becomes of each node, by the tables of all themes."""

from __future__ import annotations

import contextlib

from torch import fx

from haste_compiler.errors import CaptureError
from haste_compiler.graph.nodes import finish, is_tensor, replace
from haste_compiler.passes.canonicalize import arithmetic, attention, clamping, layout, norms, pieces, pooling
from haste_compiler.passes.canonicalize.constants import compute, is_computable
from haste_compiler.passes.canonicalize.no_ops import is_assertion, is_no_op
from haste_compiler.passes.canonicalize.rewrite import Rewrites, source_of

_REWRITES: Rewrites = (
    layout.REWRITES
    | pieces.REWRITES
    | arithmetic.REWRITES
    | attention.REWRITES
    | clamping.REWRITES
    | norms.REWRITES
    | pooling.REWRITES
)


def _has_scalars(node: fx.Node) -> bool:
    """Whether a call's value, or what it computes with first, is a tensor without dimensions: it has no plain form."""
    return any(is_tensor(value) and value.meta["val"].dim() == 0 for value in (node, *node.all_input_nodes[:1]))


def canonicalize(gm: fx.GraphModule) -> fx.GraphModule:
    """Bring a captured graph into the plain form that the other passes and the code generator expect.

    - Dropped: aliases, clones, detaching, assertions, conversions to the same dtype, reshapes and average pooling to
      the same size.
    - Computed: whatever depends on constants only.
    - Made plain: negative positions, mixed dtypes, ``alpha`` of additions, norms without weights, attention's masks
      of truth values.
    - Several spellings of one operator become one: ``view`` -> ``reshape``, ``transpose`` and ``t`` -> ``permute``,
      ``chunk`` and ``split`` -> ``slice``, ``roll`` -> ``cat`` of slices, ``unbind`` -> ``select``, ``hardtanh`` ->
      ``relu6`` or ``clamp``, ``x * sigmoid(x)`` -> ``silu``; dimensions count from the front.
    """
    for node in list(gm.graph.nodes):
        if node.op != "call_function" or node._erased:
            continue
        if is_assertion(node):
            gm.graph.erase_node(node)
        elif is_no_op(node):
            replace(node, source_of(node))
        elif is_computable(node):
            compute(gm, node)
        elif (rewrite := _REWRITES.get(node.target)) is not None and not _has_scalars(node):
            # What has no plain form for every batch stays as it is.
            with gm.graph.inserting_before(node), contextlib.suppress(CaptureError):
                rewrite(gm, node)
    return finish(gm)
