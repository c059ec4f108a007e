"""Which layers become layers of integers, and that the graph still computes what the network does."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from haste_compiler.codegen.target import machine_of, parse_target
from haste_compiler.cost.pricing import Pricing
from haste_compiler.errors import ConfigError
from haste_compiler.graph.capture import capture
from haste_compiler.graph.nodes import layer_name
from haste_compiler.methods.layers import conv_layers
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.methods.quantized.algorithm import Algorithm
from haste_compiler.methods.quantized.config import QuantizedConfig
from haste_compiler.methods.quantized.reference.rounding import MOST_PRODUCTS

EVERYTHING = QuantizedConfig(cost_model=False)


class Mixed(nn.Module):
    """A convolution of every kind, a residual, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.square = nn.Conv2d(3, 16, 7, 2, 3), nn.Conv2d(16, 16, 3, padding=1)
        self.depthwise, self.point = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 24, 1)
        self.grouped, self.head = nn.Conv2d(24, 24, 3, groups=4), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.square(x) + x)
        x = F.hardswish(self.point(self.depthwise(x)))
        return self.head(F.relu(self.grouped(x)).mean((2, 3)))


def rewritten(config: QuantizedConfig) -> tuple[nn.Module, fx.GraphModule, Tensor]:
    model, x = Mixed().eval(), torch.randn(2, 3, 32, 32)
    return model, run_passes(capture(model, (x,)), config), x


def calls(gm: fx.GraphModule) -> dict[str, str]:
    """The operator of every layer of the project's."""
    nodes = (node for node in gm.graph.nodes if getattr(node.target, "namespace", "") == "haste")
    return {layer_name(node): str(node.target).split(".")[1] for node in nodes}


def test_every_layer_but_depthwise_ones_becomes_one_of_integers() -> None:
    model, gm, x = rewritten(EVERYTHING)
    assert calls(gm) == {
        "stem": "quantized_conv2d",
        "square": "quantized_winograd",
        "depthwise": "conv2d",
        "point": "quantized_conv2d",
        "grouped": "quantized_conv2d",
        "head": "quantized_linear",
    }
    found, expected = gm(x), model(x)
    assert 0 < (found - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize(
    ("layers", "square", "head"),
    [
        ({"square": {"winograd": 0}}, "quantized_conv2d", "quantized_linear"),
        ({"square": {"winograd": 2}, "head": {"enabled": False}}, "quantized_winograd", "linear"),
        ({"*": {"enabled": False}}, "conv2d", "linear"),
    ],
)
def test_overrides_hold_for_their_layers(layers: dict[str, dict[str, int]], square: str, head: str) -> None:
    _, gm, _ = rewritten(EVERYTHING.replace(layers=layers))
    assert calls(gm)["square"] == square and calls(gm)["head"] == head
    (size,) = [node.args[1].meta["val"].shape[-1] for node in gm.graph.nodes if "winograd" in str(node.target)] or [0]
    assert size == (4 if square == "quantized_winograd" else 0)


def test_an_override_of_a_layer_that_is_never_taken_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'depthwise' matches none of the 5 eligible layers"):
        rewritten(EVERYTHING.replace(layers={"depthwise": {"enabled": True}}))


def test_layers_are_listed_with_their_algorithm() -> None:
    _, gm, _ = rewritten(EVERYTHING)
    found = {layer.name: (layer.method, layer.reason) for layer in conv_layers(gm, EVERYTHING)}
    assert found["square"] == ("quantized", "int8 by F(4×4)") and found["stem"] == ("quantized", "int8")
    assert found["depthwise"][0] is None and "depthwise" in found["depthwise"][1]
    assert found["head"] == ("quantized", "int8")


def test_sums_that_may_not_fit_are_not_taken() -> None:
    for rows, taken in ((MOST_PRODUCTS, True), (MOST_PRODUCTS + 1, False)):
        gm = run_passes(capture(nn.Linear(rows, 1), (torch.randn(1, rows),)), EVERYTHING)
        (layer,) = conv_layers(gm, EVERYTHING)
        assert layer.eligible == taken and (taken or f"more than {MOST_PRODUCTS} products" in layer.reason)


def test_an_image_gives_the_same_alone_and_among_others() -> None:
    model, x = Mixed().eval(), torch.randn(3, 3, 32, 32)
    config: Sequence[QuantizedConfig] = [EVERYTHING]
    one, all_ = (run_passes(capture(model, (each,)), config)(each) for each in (x[1:2], x))
    assert torch.equal(one, all_[1:2])


@pytest.mark.parametrize(
    ("target", "asked", "bits"),
    [
        ("llvm -mcpu=haswell", None, {7}),
        ("llvm -mcpu=haswell", 8, {8}),
        ("llvm -mcpu=cascadelake", None, {8}),
        ("llvm -mcpu=alderlake", 7, {7}),
    ],
)
def test_inputs_are_narrow_where_the_machine_multiplies_them_faster(
    target: str, asked: int | None, bits: set[int]
) -> None:
    """A dot product of bytes (VNNI) takes 8 bits; without one products of 7 bits are faster."""
    model = nn.Sequential(nn.Conv2d(256, 256, 1), nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1)).eval()
    inputs = (torch.randn(1, 256, 28, 28),)
    config, predict = QuantizedConfig(bits=asked), Pricing(machine_of(parse_target(target)), inputs)
    layers = conv_layers(run_passes(capture(model, inputs), config, predict=predict), config)
    assert {Algorithm.of(layer.setting).bits for layer in layers if layer.method} == bits
