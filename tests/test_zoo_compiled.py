"""Known networks, compiled: against eager PyTorch, and every HASTE layer against the operator on the same input."""

import operator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.codegen.build import build
from haste_compiler.codegen.target import machine_of, parse_target
from haste_compiler.codegen.walk import lower
from haste_compiler.cost.pricing import Pricing
from haste_compiler.graph.capture import capture
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.nodes import is_call, is_constant
from haste_compiler.methods.configs import Configs
from haste_compiler.methods.haste.ops.convolve import CONVOLVE
from haste_compiler.methods.haste.ops.group import GROUP
from haste_compiler.methods.haste.ops.hash import HASH
from haste_compiler.methods.haste.ops.merge import MERGE
from haste_compiler.methods.haste.reference.merging import count_channels
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.methods.haste.sites import configured_geometry
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.methods.registry import rules_for
from haste_compiler.runtime.executable import Executable, to_torch
from tests import zoo
from tests.codegen.near_ties import check_near_ties
from tests.methods.haste.networks import layer_of

SHARED = (HASH, GROUP, MERGE)
"""What layers with the same windows share."""
CONFIGS = {"default": HasteConfig(min_reads=0, cost_model=False), "paper": HasteConfig.paper()}
CLOSE = 1e-4
"""Largest error of a patch, as a share of its norm or, where that is less, of the mean patch's."""
INTEGERS, ROUNDED = 0.02, 0.2
"""Largest error of a network in integers, against the operators in eager PyTorch (or half of what these are off by) and
against the model."""
FEW = 0.005
"""Largest part of a network's patches that rounding may have decided otherwise; each must have a near tie."""


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


DENSE, EXACT = (HasteConfig(enabled=False), 1e-4), (HasteConfig.exact(), 1e-3)
"""A configuration that computes what the model does, and the largest error of the output."""


def check_whole(model: nn.Module, x: Tensor, *configs: tuple[HasteConfig, float]) -> None:
    expected = model(x)
    for config, most in configs or (DENSE, EXACT):
        compiled = haste_compiler.compile(model, (x,), config=config, cache=False)
        assert relative_error(compiled(x), expected) < most


class _Recorder(fx.Interpreter):
    """Keeps every value."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm, garbage_collect_values=False)


@dataclass
class HasteLayers:
    """A network's HASTE layers alone, side by side, each with its own recorded input.

    Attributes:
        gm: takes ``inputs``, returns what the layers make of them.
        inputs: what each grouping reads, and the layers' residuals.
        layers: the layers' nodes in the whole network.
        values: what every node of the whole network gave in eager PyTorch.
    """

    gm: fx.GraphModule
    inputs: list[Tensor]
    layers: list[fx.Node]
    values: dict[fx.Node, Any]


def haste_layers(gm: fx.GraphModule, x: Tensor) -> HasteLayers:
    recorder = _Recorder(gm)
    recorder.run(x, enable_io_processing=False)
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    inputs: list[Tensor] = []
    shared = {node for node in gm.graph.nodes if is_call(node, *SHARED)}
    shared |= {user for node in shared for user in node.users if user.target is operator.getitem}
    ours = [node for node in gm.graph.nodes if node in shared or is_call(node, CONVOLVE)]
    # The output of one layer is a recorded input of the next: a difference doesn't grow from layer to layer.
    for source in dict.fromkeys(source for node in ours for source in node.all_input_nodes):
        if not is_constant(source) and source not in shared:
            copies[source] = graph.placeholder(f"input_{len(inputs)}")
            copies[source].meta["val"] = source.meta["val"]
            # A slice may be contiguous and yet begin where the compiled code takes no tensor.
            inputs.append(recorder.env[source].clone(memory_format=torch.contiguous_format))
    layers, outputs = [], []
    for node in gm.graph.nodes:
        if is_constant(node) or node in shared:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
        elif node in ours:
            outputs.append(graph.node_copy(node, lambda source: copies[source]))
            layers.append(node)
    graph.output(tuple(outputs))
    return HasteLayers(fx.GraphModule(gm, graph), inputs, layers, recorder.env)


def patch_norms(y: Tensor, geometry: ConvGeometry) -> Tensor:
    """The 2-norm of each patch of an output (N, K, OH, OW): (N, PH, PW)."""
    (rows, columns), (height, width) = geometry.effective_patch, geometry.output_size
    padded = nn.functional.pad(y.square(), (0, -width % columns, 0, -height % rows))
    patches = padded.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
    return patches.sum(dim=(1, 3, 5)).sqrt()


def check_layers(model: nn.Module, x: Tensor, config: HasteConfig) -> tuple[int, int]:
    """Check every HASTE layer patch by patch; return how many patches rounding decided otherwise, and of how many."""
    alone = haste_layers(run_passes(capture(model, (x,)), config), x)
    machine = machine_of(parse_target("llvm"))
    lowered = lower(alone.gm, machine, rules_for(machine))
    actual, statistics = Executable(build(lowered, machine), lowered, 1).run(alone.inputs)
    groupings = list(dict.fromkeys(node.args[0] for node in alone.layers))
    differing = patches = 0
    for node, mine in zip(alone.layers, actual, strict=True):
        merged, slot, _, offset = node.args[:4]
        assert isinstance(merged, fx.Node) and isinstance(slot, fx.Node) and isinstance(offset, fx.Node)
        geometry = configured_geometry(node, config)
        expected = alone.values[node]
        size = patch_norms(expected, geometry)
        error = patch_norms(mine - expected, geometry)
        other = error > CLOSE * size.clamp(min=float(size.mean())) + 1e-6
        # All but the last number, which the operators don't tell.
        counts = count_channels(alone.values[slot], alone.values[offset], geometry.groups)[..., :5]
        found = to_torch(statistics[2 * groupings.index(merged)]).view(*counts.shape[:-1], -1)[..., :5]
        other |= (found != counts).flatten(3).any(dim=-1)
        differing += _check_ties(node, alone.values, other, geometry)
        patches += other.numel()
    assert alone.layers and differing <= max(1, FEW * patches), f"{differing} of {patches} patches differ"
    return differing, patches


def _check_ties(node: fx.Node, values: dict[fx.Node, Any], differing: Tensor, geometry: ConvGeometry) -> int:
    grouping: Any = node.args[1].args[0]  # type: ignore[union-attr]
    x, codes, norm, settings = grouping.args[:4]
    merge, skip = grouping.args[-2:]
    layer = layer_of(geometry, merge, skip, Settings.unpack(values[settings]))
    planes = values[codes.args[1]]
    return check_near_ties(differing, values[x], values[norm], planes, layer, str(node.meta["layer"]))


BEGINNINGS = {
    "resnet18": ("conv1", "bn1", "relu", "maxpool", "layer1.0", "layer2.0"),
    "squeezenet1_1": tuple(f"features.{i}" for i in (0, 1, 2, 3, 5, 6)),
    "mobilenet_v3_small": tuple(f"features.{i}" for i in range(5)),
    "shufflenet_v2_x1_0": ("conv1", "maxpool", "stage2.0", "stage2.1", "stage3.0"),
}
"""Modules of some networks in which every kind of block comes, one block after another."""


def beginning(name: str) -> nn.Module:
    """A network's first blocks, and a classifier: the blocks after them differ from these in their sizes alone."""
    model = zoo.zoo(name, size=64)
    blocks = nn.Sequential(*map(model.get_submodule, BEGINNINGS[name]))
    channels = blocks(zoo.example_input(name, size=64)).shape[1]
    return nn.Sequential(blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)).eval()


@pytest.mark.parametrize("name", BEGINNINGS)
def test_beginnings(name: str) -> None:
    check_whole(beginning(name), zoo.example_input(name, size=64))


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x1_0"])
def test_layers_of_beginnings(name: str) -> None:
    check_layers(beginning(name), zoo.example_input(name, batch=2, size=64), CONFIGS["default"])


def test_small_images() -> None:
    check_whole(zoo.zoo("resnet18", size=64), zoo.example_input("resnet18", size=64), DENSE)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.ZOO)
def test_whole_network(name: str) -> None:
    check_whole(zoo.zoo(name), zoo.example_input(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.ZOO)
def test_whole_network_in_integers(name: str) -> None:
    """The same integers but for ties, which a scale's last bit decides: what follows is rounded anew."""
    model, x = zoo.zoo(name), zoo.example_input(name)
    machine = machine_of(parse_target("llvm"), 1)
    configs, _ = Configs.with_precision(None, "int8", machine)
    gm = run_passes(capture(model, (x,)), configs, predict=Pricing(machine, [x]))
    expected = gm(x)
    found = haste_compiler.compile(model, (x,), precision="int8", threads=1, cache=False)(x)
    rounding = relative_error(expected, model(x))
    assert relative_error(found, expected) < max(INTEGERS, rounding / 2)
    assert rounding < ROUNDED and relative_error(found, model(x)) < ROUNDED


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", zoo.ZOO)
def test_layers(name: str, config: str) -> None:
    check_layers(zoo.zoo(name), zoo.example_input(name), CONFIGS[config])


@pytest.mark.parametrize("config", CONFIGS)
def test_layers_of_a_trained_network_on_its_images(config: str) -> None:
    x, _ = zoo.cifar_images("resnet20", 4)
    check_layers(zoo.trained("resnet20"), x, CONFIGS[config])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet20"])
def test_trained_networks(name: str) -> None:
    x, labels = zoo.cifar_images(name, 20)
    model = zoo.trained(name)
    check_whole(model, x)
    for config in CONFIGS.values():
        check_layers(model, x, config)
    predicted = haste_compiler.compile(model, (x,))(x).argmax(dim=1)
    agreement: Any = (predicted == model(x).argmax(dim=1)).float().mean()
    assert agreement >= 0.85 and (predicted == labels).float().mean() >= 0.7


@pytest.mark.slow
def test_a_trained_network_on_photographs() -> None:
    x, model = zoo.photographs(2), zoo.trained("resnet18")
    check_whole(model, x)
    for config in CONFIGS.values():
        check_layers(model, x, config)
