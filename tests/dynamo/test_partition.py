"""Cutting a graph: regions are convex and connected, whatever the graph; batches are cut into few sizes."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from haste_compiler.dynamo.batch import pieces
from haste_compiler.dynamo.machines import machines
from haste_compiler.dynamo.measure import faster
from haste_compiler.dynamo.partition import find_regions
from haste_compiler.graph.algorithms import in_order

aten = torch.ops.aten


def random_graph(kinds: list[int], edges: list[int]) -> fx.GraphModule:
    """A graph of convolutions (kind 0), activations (1) and an operator that isn't ours (2), wired by `edges`."""
    graph = fx.Graph()
    mode = torch._subclasses.FakeTensorMode()
    value = mode.from_tensor(torch.randn(1, 8, 8, 8))
    x, weight = graph.placeholder("x"), graph.placeholder("weight")
    weight.meta["val"] = mode.from_tensor(torch.randn(8, 8, 1, 1))
    nodes = [x]
    for position, kind in enumerate(kinds):
        left, right = nodes[edges[2 * position] % len(nodes)], nodes[edges[2 * position + 1] % len(nodes)]
        if kind == 0:
            node = graph.call_function(aten.conv2d.default, (left, weight))
        else:
            node = graph.call_function(aten.add.Tensor if kind == 1 else aten.atan2.default, (left, right))
        nodes.append(node)
    for node in nodes:
        node.meta["val"] = value
    graph.output(tuple(nodes[1:]))
    return fx.GraphModule({}, graph)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=14), st.lists(st.integers(0, 20), min_size=28, max_size=28))
def test_regions_can_run_one_after_the_other(kinds: list[int], edges: list[int]) -> None:
    gm = random_graph(kinds, edges)
    weight = gm.graph.find_nodes(op="placeholder")[1]
    plan = find_regions(gm, [weight], 0, machines())
    nodes = list(gm.graph.nodes)
    units = in_order(plan.regions, nodes)
    # Each unit after all that it depends on: a region that is not convex would have to be before and after something.
    done: set[fx.Node] = set()
    for unit in units:
        assert all(source in done or source in unit for node in unit for source in node.all_input_nodes)
        done.update(unit)
    assert len(done) == len(nodes)
    convolutions = {node for node in nodes if node.target is aten.conv2d.default}
    assert convolutions == {node for region in plan.regions for node in region} & convolutions


@given(st.integers(1, 300), st.integers(1, 100))
def test_pieces_add_up_and_are_few_sizes(batch: int, first: int) -> None:
    parts = pieces(batch, first)
    assert sum(parts) == batch
    assert set(parts) <= {first, 1, 4, 16, 64, 256}


def test_the_first_batch_is_one_piece() -> None:
    assert pieces(23, 23) == [23]


def test_the_faster_function_is_found() -> None:
    small, large = torch.randn(8, 8), torch.randn(600, 600)
    assert faster(lambda: small @ small, lambda: large @ large, ())
    assert not faster(lambda: large @ large, lambda: small @ small, ())


def test_measuring_draws_no_random_numbers() -> None:
    state = torch.random.get_rng_state()
    faster(lambda: torch.rand(3), lambda: torch.randn(3), ())
    assert torch.equal(torch.random.get_rng_state(), state)
