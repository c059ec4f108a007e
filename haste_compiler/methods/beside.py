"""``layer(x)`` -> ``layer(x)`` for the network, and beside it what a method makes of ``layer(x)``, as an output."""

from __future__ import annotations

from torch import fx

from haste_compiler.graph.nodes import layer_name
from haste_compiler.methods.prediction import CHOICE, Choice

_PLAIN = "{} (plain)"
"""What the plain layer is called, so that its time isn't taken for the method's."""


def put_beside(gm: fx.GraphModule) -> tuple[str, ...]:
    """Let a graph return what the methods' layers return, each on what it reads in the plain network.

    Args:
        gm: a graph whose layers are chosen and not rewritten yet; it is changed.

    Returns:
        The names of the layers, in the order of the graph's outputs, which take the place of those it had.
    """
    taken = [node for node in gm.graph.nodes if CHOICE in node.meta and node.meta[CHOICE].taken]
    for node in taken:
        with gm.graph.inserting_before(node):
            plain = gm.graph.node_copy(node)
        name = layer_name(node)
        plain.meta = {
            **node.meta,
            "layer": _PLAIN.format(name),
            CHOICE: Choice(node.meta[CHOICE].method, False),
        }
        node.replace_all_uses_with(plain)
    gm.graph.output_node().args = (tuple(taken),)
    return tuple(map(layer_name, taken))
