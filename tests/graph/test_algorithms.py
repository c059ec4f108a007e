"""The graph algorithms, on small graphs of any shape, against what their docstrings say, spelled out."""

import operator
import subprocess
import sys

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from haste_compiler.graph.algorithms import alternations, between, components, connected, digraph, in_order, upstream

WIRES = st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=10)
"""For each node those that it reads, counted from the first; what isn't before it is left out."""

CHOICES = st.lists(st.booleans(), min_size=10, max_size=10)


def wired(wires: list[list[int]]) -> list[fx.Node]:
    graph = fx.Graph()
    nodes: list[fx.Node] = []
    for reads in wires:
        sources = [nodes[index] for index in reads if index < len(nodes)]
        nodes.append(graph.call_function(operator.add, tuple(sources)))
    return nodes


def chosen(nodes: list[fx.Node], choices: list[bool]) -> list[fx.Node]:
    return [node for node, choice in zip(nodes, choices, strict=False) if choice]


def paths(node: fx.Node, among: list[fx.Node]) -> list[list[fx.Node]]:
    """All paths to a node from those that read none of the others."""
    sources = [source for source in node.all_input_nodes if source in among]
    return [[*path, node] for source in sources for path in paths(source, among)] or [[node]]


def is_before(node: fx.Node, other: fx.Node, among: list[fx.Node]) -> bool:
    return any(node in path for path in paths(other, among))


@given(WIRES, CHOICES)
def test_data_flow(wires: list[list[int]], choices: list[bool]) -> None:
    nodes = chosen(wired(wires), choices)
    graph = digraph(iter(nodes))
    assert list(graph) == nodes
    for node in nodes:
        assert list(graph.pred[node]) == [source for source in node.all_input_nodes if source in nodes]


@given(WIRES, CHOICES)
def test_components(wires: list[list[int]], choices: list[bool]) -> None:
    nodes = chosen(wired(wires), choices)
    pairs = [(node, source) for node in nodes for source in node.all_input_nodes if source in nodes]
    parts = components(nodes)
    assert sorted(node for part in parts for node in part) == nodes
    assert all(part == sorted(part) for part in parts) and parts == sorted(parts, key=lambda part: part[0])
    for part in parts:
        together = {part[0]}
        for _ in nodes:
            together |= {each for pair in pairs if together.intersection(pair) for each in pair}
        assert together == set(part)


@given(WIRES, CHOICES)
def test_nodes_that_pairs_connect(wires: list[list[int]], choices: list[bool]) -> None:
    nodes = wired(wires)
    pairs = [(node, source) for node in chosen(nodes, choices) for source in node.all_input_nodes]
    parts = connected(nodes, pairs)
    assert sorted(parts) == nodes
    for node in nodes:
        together = {node}
        for _ in nodes:
            together |= {each for pair in pairs if together.intersection(pair) for each in pair}
        assert parts[node] == together


@given(WIRES, CHOICES, CHOICES)
def test_alternations(wires: list[list[int]], choices: list[bool], kinds: list[bool]) -> None:
    nodes = wired(wires)
    members, among = set(chosen(nodes, kinds)), chosen(nodes, choices)
    found = alternations(among, members)
    assert sorted(found) == among
    for node in among:
        sides = [[True, *(each in members for each in path)] for path in paths(node, among)]
        assert found[node] == max(sum(map(operator.ne, side, side[1:])) for side in sides)
    # The members of one number are convex: between two of them lie only such.
    for first in members & set(among):
        for last in members & set(among):
            if found[first] == found[last]:
                inside = [node for path in paths(last, among) if first in path for node in path[path.index(first) :]]
                assert all(node in members and found[node] == found[first] for node in inside)


@given(WIRES, CHOICES, CHOICES)
def test_in_order(wires: list[list[int]], choices: list[bool], kinds: list[bool]) -> None:
    nodes = wired(wires)
    members = chosen(nodes, kinds)
    changes = alternations(nodes, set(members))
    convex = [[node for node in members if changes[node] == number] for number in range(0, 11, 2)]
    parts = [part for nodes_of_number in convex for part in components(nodes_of_number)]
    units = [part for part, choice in zip(parts, choices, strict=False) if choice]
    order = in_order(units, iter(nodes))
    assert sorted(node for unit in order for node in unit) == nodes
    assert all(unit in order for unit in units)
    rest = list(order)
    done: set[fx.Node] = set()
    while rest:
        ready = [unit for unit in rest if all(s in done or s in unit for node in unit for s in node.all_input_nodes)]
        assert rest[0] == min(ready, key=lambda unit: unit[-1])
        done.update(rest.pop(0))


def test_units_that_depend_on_each_other_have_no_order() -> None:
    first, second, third = wired([[], [0], [1]])
    with pytest.raises(nx.NetworkXUnfeasible):
        in_order([[first, third]], [first, second, third])


@given(WIRES, CHOICES, CHOICES)
def test_what_is_upstream(wires: list[list[int]], choices: list[bool], kinds: list[bool]) -> None:
    nodes = wired(wires)
    among = chosen(nodes, kinds)
    starts = list(reversed(chosen(among, choices)))
    expected: list[fx.Node] = []

    def visit(node: fx.Node) -> None:
        if node not in expected:
            for source in node.all_input_nodes:
                if source in among:
                    visit(source)
            expected.append(node)

    for start in starts:
        visit(start)
    found = upstream(digraph(reversed(among)), starts)
    assert found == expected
    assert set(found) == {node for node in among for start in starts if is_before(node, start, among)}


@given(WIRES, CHOICES)
def test_what_lies_between(wires: list[list[int]], choices: list[bool]) -> None:
    nodes = wired(wires)
    ends = set(chosen(nodes, choices))
    last = nodes[-1]
    expected: list[fx.Node] = []

    def visit(node: fx.Node) -> None:
        for source in reversed(node.all_input_nodes):
            if source not in expected:
                expected.append(source)
                if source not in ends:
                    visit(source)

    visit(last)
    assert between(last, ends.__contains__) == expected[::-1]


@pytest.mark.parametrize("module", ["haste_compiler.cli", "haste_compiler.runtime.artifact_load"])
def test_what_starts_a_program_or_loads_a_network_does_not_wait_for_networkx(module: str) -> None:
    code = f"import haste_compiler, {module}, sys; print('networkx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
