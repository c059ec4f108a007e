"""Known networks, compiled: against eager PyTorch, and every HASTE layer against the operator on the same input."""

import operator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.codegen.build import build
from haste_compiler.codegen.lower import lower
from haste_compiler.codegen.target import parse_target, vector_unit
from haste_compiler.haste import ConvGeometry
from haste_compiler.passes import capture, run_passes
from haste_compiler.passes.graph import is_call, is_constant
from haste_compiler.passes.layers import configured_geometry
from haste_compiler.runtime.executable import Executable
from tests import zoo

haste = torch.ops.haste
SHARED = (haste.hash.default, haste.group.default, haste.merge.default)
"""What layers with the same windows share."""
CONFIGS = {"default": HasteConfig(min_reads=0), "paper": HasteConfig.paper()}
FEW = 0.02
"""Largest part of a network's patches in which rounding may have decided a near tie otherwise."""


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def check_whole(model: nn.Module, x: Tensor) -> None:
    expected = model(x)
    for config, most in ((HasteConfig(enabled=False), 1e-4), (HasteConfig.exact(), 1e-3)):
        compiled = haste_compiler.compile(model, (x,), config=config, cache=False)
        assert relative_error(compiled(x), expected) < most


class _Recorder(fx.Interpreter):
    """Keeps every value."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm, garbage_collect_values=False)


def haste_layers(gm: fx.GraphModule, x: Tensor) -> tuple[fx.GraphModule, list[Tensor], list[tuple[fx.Node, Tensor]]]:
    """A network's HASTE layers alone, side by side.

    Returns:
        A graph of them that takes the input and the residual of each, those tensors, and for each layer its node and
        what the eager operator makes of them.
    """
    recorder = _Recorder(gm)
    recorder.run(x, enable_io_processing=False)
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    inputs: list[Tensor] = []
    outputs: list[tuple[fx.Node, Tensor]] = []
    shared = {node for node in gm.graph.nodes if is_call(node, *SHARED)}
    shared |= {user for node in shared for user in node.users if user.target is operator.getitem}
    ours = [node for node in gm.graph.nodes if node in shared or is_call(node, haste.convolve.default)]
    # The output of one layer is a recorded input of the next: a difference doesn't grow from layer to layer.
    for source in dict.fromkeys(source for node in ours for source in node.all_input_nodes):
        if not is_constant(source) and source not in shared:
            copies[source] = graph.placeholder(f"input_{len(inputs)}")
            copies[source].meta["val"] = source.meta["val"]
            inputs.append(recorder.env[source].contiguous())
    layers = []
    for node in gm.graph.nodes:
        if is_constant(node) or node in shared:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
        elif node in ours:
            layers.append(graph.node_copy(node, lambda source: copies[source]))
            outputs.append((node, recorder.env[node]))
    graph.output(tuple(layers))
    return fx.GraphModule(gm, graph), inputs, outputs


def patch_norms(y: Tensor, geometry: ConvGeometry) -> Tensor:
    """The 2-norm of each patch of an output (N, K, OH, OW): (N, PH, PW)."""
    (rows, columns), (height, width) = geometry.effective_patch, geometry.output_size
    padded = nn.functional.pad(y.square(), (0, -width % columns, 0, -height % rows))
    patches = padded.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
    return patches.sum(dim=(1, 3, 5)).sqrt()


def check_layers(model: nn.Module, x: Tensor, config: HasteConfig) -> None:
    gm, inputs, outputs = haste_layers(run_passes(capture(model, (x,)), config), x)
    target = parse_target("llvm")
    lowered = lower(gm, vector_unit(target), 1)
    actual, _ = Executable(build(lowered, target), lowered, 1).run(inputs)
    differing, patches = 0, 0
    for (node, expected), mine in zip(outputs, actual, strict=True):
        geometry = configured_geometry(node, config)
        size = patch_norms(expected, geometry)
        error = patch_norms(mine - expected, geometry)
        other = error > 1e-4 * size.clamp(min=float(size.mean())) + 1e-6
        # A near tie moves one channel or two: never far.
        assert (error[other] < 0.5 * size.max()).all(), node.meta["layer"]
        differing, patches = differing + int(other.sum()), patches + other.numel()
    assert outputs and differing <= max(1, FEW * patches), f"{differing} of {patches} patches differ"


FAST = ["resnet18", "squeezenet1_1", "mobilenet_v3_large", "shufflenet_v2_x1_0"]


@pytest.mark.parametrize("name", FAST)
def test_small_images(name: str) -> None:
    x = zoo.example_input(name, size=64)
    check_whole(zoo.zoo(name, size=64), x)


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x1_0"])
def test_layers_of_small_images(name: str) -> None:
    check_layers(zoo.zoo(name, size=64), zoo.example_input(name, batch=2, size=64), HasteConfig(min_reads=0))


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.ZOO)
def test_whole_network(name: str) -> None:
    check_whole(zoo.zoo(name), zoo.example_input(name))


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
