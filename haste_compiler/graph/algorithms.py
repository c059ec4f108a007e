"""Graph algorithms on FX nodes, by networkx: data flow, connected parts, layers, orders, what a node is made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import networkx as nx
from torch import fx


def digraph(nodes: Iterable[fx.Node]) -> nx.DiGraph:
    """Data flow among some nodes: an edge from each to those of them that read it.

    Its nodes are in the order of ``nodes``, the predecessors of each in the order in which it reads them.
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(nodes)
    graph.add_edges_from((source, node) for node in list(graph) for source in node.all_input_nodes if source in graph)
    return graph


def components(nodes: Iterable[fx.Node]) -> list[list[fx.Node]]:
    """The parts that data flow among some nodes connects, by their first nodes; each in the order of ``nodes``."""
    graph = digraph(nodes)
    position = {node: place for place, node in enumerate(graph)}
    parts = (sorted(part, key=position.__getitem__) for part in nx.weakly_connected_components(graph))
    return sorted(parts, key=lambda part: position[part[0]])


def connected(nodes: Iterable[fx.Node], pairs: Iterable[tuple[fx.Node, fx.Node]]) -> dict[fx.Node, set[fx.Node]]:
    """For each node the set of those that a chain of pairs connects it with, itself among them."""
    graph = nx.Graph()
    graph.add_nodes_from(nodes)
    graph.add_edges_from(pairs)
    return {node: part for part in nx.connected_components(graph) for node in part}


def alternations(nodes: Iterable[fx.Node], members: Collection[fx.Node]) -> dict[fx.Node, int]:
    """How often a path through some nodes changes between ``members`` and the others on its way to each, at most.

    A path begins among the members: the number is even for a member and odd for another node. The members of one number
    are a convex set.
    """
    graph = digraph(nodes)
    changes: dict[fx.Node, int] = {}
    for node in nx.topological_sort(graph):
        counts = (changes[source] + ((source in members) != (node in members)) for source in graph.pred[node])
        changes[node] = max(counts, default=int(node not in members))
    return changes


def in_order(units: Sequence[list[fx.Node]], nodes: Iterable[fx.Node]) -> list[list[fx.Node]]:
    """All nodes, those of a unit together, each after what it depends on, otherwise in the order that they had.

    Args:
        units: convex sets of nodes that have none in common; each other node is a unit by itself.
        nodes: all of a graph, in order.

    Raises:
        networkx.NetworkXUnfeasible: units depend on each other.
    """
    graph = digraph(nodes)
    position = {node: place for place, node in enumerate(graph)}
    inside = {node for unit in units for node in unit}
    groups = [*units, *([node] for node in graph if node not in inside)]
    order = nx.lexicographical_topological_sort(
        nx.condensation(graph, groups), key=lambda index: position[groups[index][-1]]
    )
    return [groups[index] for index in order]


def upstream(graph: nx.DiGraph, starts: Iterable[fx.Node]) -> list[fx.Node]:
    """Nodes of a graph with all that they depend on there, each after what it depends on.

    Args:
        graph: data flow, as of ``digraph``.
        starts: nodes of it. What the first depends on comes first, and of that what its first argument depends on.
    """
    upward = graph.reverse(copy=False)
    found: dict[fx.Node, None] = {}
    for start in starts:
        if start not in found:
            found.update(dict.fromkeys(nx.dfs_postorder_nodes(upward, start)))
    return list(found)


def between(node: fx.Node, is_end: Callable[[fx.Node], bool]) -> list[fx.Node]:
    """What a node is made of: all nodes on the paths to it from the nearest ends, these with it and itself without.

    What its first argument is made of comes before the others, and the nodes that it reads come last.

    Args:
        node: may be an end itself.
        is_end: whether paths end at a node.
    """
    upward = nx.DiGraph()
    upward.add_node(node)
    for each in node.graph.nodes:
        if each is node or not is_end(each):
            upward.add_edges_from((each, source) for source in reversed(each.all_input_nodes))
    _, *found = nx.dfs_preorder_nodes(upward, node)
    return found[::-1]
