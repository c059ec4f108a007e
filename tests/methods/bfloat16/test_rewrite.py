"""Which layers become layers of bfloat16, and that the graph still computes what the network does."""

import pytest
import torch
from torch import Tensor, fx, nn

from haste_compiler import BFloat16Config
from haste_compiler.errors import ConfigError
from haste_compiler.graph.capture import capture
from haste_compiler.methods.layers import conv_layers
from haste_compiler.methods.pipeline import run_passes
from tests.methods.quantized.test_rewrite import Mixed, calls

EVERYTHING = BFloat16Config(cost_model=False)


def rewritten(config: BFloat16Config) -> tuple[nn.Module, fx.GraphModule, Tensor]:
    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.randn(2, 3, 32, 32)
    return model, run_passes(capture(model, (x,)), config), x


def test_every_layer_but_depthwise_ones_becomes_one_of_bfloat16() -> None:
    model, gm, x = rewritten(EVERYTHING)
    assert calls(gm) == {
        "stem": "bfloat16_conv2d",
        "square": "bfloat16_winograd",
        "depthwise": "conv2d",
        "point": "bfloat16_conv2d",
        "grouped": "bfloat16_conv2d",
        "head": "bfloat16_linear",
    }
    found, expected = gm(x), model(x)
    assert 0 < (found - expected).norm() < 0.005 * expected.norm()


@pytest.mark.parametrize(
    ("layers", "square", "head"),
    [
        ({"square": {"winograd": 0}}, "bfloat16_conv2d", "bfloat16_linear"),
        ({"square": {"winograd": 2}, "head": {"enabled": False}}, "bfloat16_winograd", "linear"),
        ({"*": {"enabled": False}}, "conv2d", "linear"),
    ],
)
def test_overrides_hold_for_their_layers(layers: dict[str, dict[str, int]], square: str, head: str) -> None:
    _, gm, _ = rewritten(EVERYTHING.replace(layers=layers))
    assert calls(gm)["square"] == square and calls(gm)["head"] == head
    (size,) = [node.args[1].meta["val"].shape[-1] for node in gm.graph.nodes if "winograd" in str(node.target)] or [0]
    assert size == (4 if square == "bfloat16_winograd" else 0)


def test_an_override_of_a_layer_that_is_never_taken_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'depthwise' matches none of the 5 eligible layers"):
        rewritten(EVERYTHING.replace(layers={"depthwise": {"enabled": True}}))


def test_layers_are_listed_with_their_algorithm() -> None:
    _, gm, _ = rewritten(EVERYTHING)
    found = {layer.name: (layer.method, layer.reason) for layer in conv_layers(gm, EVERYTHING)}
    assert found["square"] == ("bfloat16", "bf16, F(4×4)") and found["stem"] == ("bfloat16", "bf16")
    assert found["depthwise"][0] is None and "depthwise" in found["depthwise"][1]
