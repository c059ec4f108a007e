"""In-place operators become functional ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from haste_compiler.errors import CaptureError
from haste_compiler.graph.algorithms import connected
from haste_compiler.graph.nodes import argument, fake_value

aten = torch.ops.aten

# Composite operators may return a view of their argument whatever their schema says; these never do.
_FRESH = {
    aten.adaptive_avg_pool2d.default,
    aten.avg_pool1d.default,
    aten.batch_norm.default,
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.conv_transpose2d.input,
    aten.group_norm.default,
    aten.instance_norm.default,
    aten.layer_norm.default,
    aten.linear.default,
    aten.matmul.default,
    aten.max_pool2d.default,
    aten.relu6.default,
}


_DROPOUTS = {
    aten.dropout.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
    aten.feature_dropout_.default,
    aten.alpha_dropout.default,
    aten.alpha_dropout_.default,
    aten.feature_alpha_dropout.default,
    aten.feature_alpha_dropout_.default,
}


def drop_dropouts(graph: fx.Graph) -> None:
    """Drop dropouts of evaluation mode: they return the very tensor they are given, which hides who writes to what."""
    for node in list(graph.nodes):
        if node.target not in _DROPOUTS or argument(node, 2, "train"):
            continue
        if graph.output_node() in node.users:
            # The exported program knows its outputs by their nodes' names: this one has to keep its own.
            node.target, node.args, node.kwargs = aten.alias.default, node.args[:1], {}
        else:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def functionalize(gm: fx.GraphModule, model_name: str) -> fx.GraphModule:
    """Replace every in-place operator by its functional twin, and let later users read the new value.

    Writes to the model's inputs are dropped: a graph has no side effects.

    Args:
        gm: a graph of which :func:`is_simply_functional` is true, or that PyTorch has functionalized.
        model_name: for the error's message.

    Raises:
        CaptureError: the model writes to one of its own tensors, or an in-place operator has no functional twin.
    """
    for node in list(gm.graph.nodes):
        if not _is_in_place(node):
            continue
        written = node.args[0]
        root = _root(written)
        if root is not None and root.op == "get_attr":
            raise CaptureError(
                f"{model_name} writes to its own tensor {root.target!r} on every call ({node.target}); a compiled "
                f"network has no state to change"
            )
        if node.target is aten.copy_.default and not node.users and root is not None:
            gm.graph.erase_node(node)
            continue
        functional = _functional(node.target)
        if functional is None:
            raise CaptureError(f"{model_name} uses the in-place operator {node.target}, which has no functional form")
        with gm.graph.inserting_before(node):
            new = gm.graph.call_function(functional, node.args, node.kwargs)
        new.meta = dict(node.meta)
        new.meta["val"] = fake_value(new)
        # Who reads the written tensor from here on sees what was written.
        later = _after(node)
        written.replace_all_uses_with(new, delete_user_cb=lambda user, later=later: user in later)
        node.replace_all_uses_with(new)
        gm.graph.erase_node(node)
    gm.graph.lint()
    gm.recompile()
    return gm


def is_simply_functional(gm: fx.GraphModule) -> bool:
    """Whether no in-place operator writes to a tensor that is later read under another name (a view or its base)."""
    order = {node: position for position, node in enumerate(gm.graph.nodes)}
    written = [(node, node.args[0]) for node in order if _is_in_place(node)]
    viewed = [
        (node, source)
        for node in order
        if _may_alias(node) and not _is_in_place(node)
        for source in node.all_input_nodes
    ]
    # Two names of the very same tensor, and two of tensors that may share memory.
    same, sharing = connected(order, written), connected(order, [*written, *viewed])
    for node, position in order.items():
        if not _is_in_place(node):
            continue
        if _functional(node.target) is None and node.target is not aten.copy_.default:
            return False
        for other in sharing[node] - same[node]:
            if order[other] < position and any(order[user] > position for user in other.users):
                return False
    return True


def writes_to_inputs(gm: fx.GraphModule) -> bool:
    """Whether an in-place operator writes to an input or a constant of the graph, or to a view of one."""
    return any(_is_in_place(node) and _root(node) is not None for node in gm.graph.nodes)


def _is_in_place(node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
        return False
    return bool(node.args) and isinstance(node.args[0], fx.Node)


def _may_alias(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return True
    if target in _FRESH:
        return False
    if any(result.alias_info is not None for result in target._schema.returns):
        return True
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), "CompositeImplicitAutograd")
    return bool(composite)


def _functional(target: Any) -> Any:
    """The functional twin of an in-place operator (``relu_`` and ``relu``), or None."""
    namespace, _, name = target._schema.name.partition("::")
    mutated = [a for a in target._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    if namespace != "aten" or not name.endswith("_") or len(mutated) != 1:
        return None
    packet = getattr(aten, name[:-1], None)
    return getattr(packet, target._overloadname, None)


def _root(node: Any) -> fx.Node | None:
    """The placeholder or constant that ``node`` is, or is a view of."""
    while isinstance(node, fx.Node) and node.op == "call_function":
        if not (_is_in_place(node) or _may_alias(node)) or not node.all_input_nodes:
            return None
        node = node.all_input_nodes[0]
    return node if isinstance(node, fx.Node) and node.op in ("placeholder", "get_attr") else None


def _after(node: fx.Node) -> set[fx.Node]:
    later, current = set(), node.next
    while current.op != "root":
        later.add(current)
        current = current.next
    return later
