"""`torch.compile(model.cuda(), backend="haste")`: what can be checked of it without a card."""

from typing import Any

import pytest
import torch
from torch import fx
from torch._subclasses import FakeTensorMode

from haste_compiler.codegen.machine import Machine
from haste_compiler.codegen.target import machine_of, parse_target
from haste_compiler.dynamo import op, region
from haste_compiler.dynamo.machines import machines
from haste_compiler.dynamo.partition import find_regions
from haste_compiler.dynamo.region import Region
from haste_compiler.dynamo.split import cut
from haste_compiler.methods.configs import Configs
from tests.codegen.cuda import emulator
from tests.dynamo.networks import DENSE, EXACT, Detector, Residual, assert_close, compiled, made


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Regions on the CPU become code for a card, which is emulated; returns where their tensors were."""
    emulator.require()
    devices: list[torch.device] = []

    def for_a_card(device: torch.device, threads: int) -> Machine:
        devices.append(device)
        return machine_of(parse_target("cuda"), threads)

    monkeypatch.setattr(region, "machine_for", for_a_card)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return devices


@pytest.mark.parametrize("options", [DENSE, EXACT], ids=["dense", "exact"])
def test_a_network_runs_on_a_card(emulated: list[torch.device], options: dict[str, Any]) -> None:
    model = made(Residual)
    run = compiled(model, options)
    # The second batch makes it a symbol; the third is computed in two pieces.
    for batch in (2, 3, 4):
        x = torch.randn(batch, 3, 12, 12)
        assert_close(run(x), model(x))
    assert len(emulated) == 2  # one a region: of a fixed batch, and of any


def test_changed_weights_reach_the_card(emulated: list[torch.device]) -> None:
    model, x = made(Residual), torch.randn(2, 3, 12, 12)
    run = compiled(model, DENSE)
    assert_close(run(x), model(x))
    with torch.no_grad():
        model.conv.weight.mul_(1.5)
    assert_close(run(x), model(x))


def test_several_inputs_and_outputs(emulated: list[torch.device]) -> None:
    model, x = made(Detector), torch.randn(2, 3, 16, 16)
    assert_close(compiled(model, DENSE)(x, torch.tensor(2.0)), model(x, torch.tensor(2.0)))
    assert emulated


aten = torch.ops.aten


def two_places(first: str, second: str) -> fx.GraphModule:
    """A convolution and an activation in one place, a move, and the same in another place; no card is needed."""
    graph = fx.Graph()
    mode = FakeTensorMode()

    def note(node: fx.Node, place: str) -> fx.Node:
        with mode:
            shape = (4, 4, 1, 1) if "weight" in node.name else (2, 4, 8, 8)
            node.meta["val"] = torch.empty(shape, device=place)
        return node

    x = note(graph.placeholder("x"), first)
    weights = [note(graph.placeholder(f"weight_{i}"), place) for i, place in enumerate((first, second))]
    for weight, place in zip(weights, (first, second), strict=True):
        x = note(graph.call_function(aten.conv2d.default, (x, weight)), place)
        x = note(graph.call_function(aten.relu.default, (x,)), place)
        if weight is weights[0]:
            x = note(graph.call_function(aten._to_copy.default, (x,), {"device": second}), second)
    graph.output((x,))
    return fx.GraphModule({}, graph)


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [("cuda:0", "cpu", ["cuda", "cpu"]), ("cuda:0", "cuda:1", ["cuda"]), ("cuda:1", "meta", [])],
)
def test_a_region_is_in_one_place_the_cpu_or_the_first_card(first: str, second: str, taken: list[str]) -> None:
    gm = two_places(first, second)
    plan = find_regions(gm, gm.graph.find_nodes(op="placeholder")[1:], 0, machines())
    cuts = [cut(plan, part) for part in plan.regions]
    regions = [Region(part.gm, (1, 1, 0), Configs.of(None), 1) for part in cuts]
    assert [made.device.type for made in regions] == taken
    assert torch._C._dispatch_has_kernel_for_dispatch_key("haste::region", "CUDA")
    for made_region, part in zip(regions, cuts, strict=True):
        handle = op.register(made_region)
        x, weight = (node.meta["val"] for node in (*part.tensors, *part.weights))
        with x.fake_mode:
            (y,) = torch.ops.haste.region([x], [weight], [], handle)
        assert y.device == x.device and y.shape == x.shape
