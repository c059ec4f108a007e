"""Which layers are taken, and what the rewritten graph computes in eager PyTorch."""

import pytest
import torch
from torch import nn

import haste_compiler
from haste_compiler import FlatConfig, QuantizedConfig
from haste_compiler.errors import ConfigError
from haste_compiler.graph.capture import Captured, capture
from haste_compiler.methods.configs import ConfigLike
from haste_compiler.methods.layers import conv_layers
from haste_compiler.methods.pipeline import run_passes
from tests.methods.flat.networks import FORCED, Network, page

TAKEN = {"stem", "square", "point", "strided", "head", "head#2"}


@pytest.fixture(scope="module")
def model() -> Network:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def captured(model: Network) -> Captured:
    return capture(model, (page(),))


def owners(captured: Captured, config: ConfigLike) -> dict[str, str | None]:
    return {layer.name: layer.method for layer in conv_layers(run_passes(captured, config), config)}


def reasons(captured: Captured, config: FlatConfig) -> dict[str, str]:
    return {layer.name: layer.reason for layer in conv_layers(run_passes(captured, config), config)}


def test_the_graph_computes_what_the_model_does(model: Network, captured: Captured) -> None:
    gm = run_passes(captured, FORCED)
    for x in (page(), torch.rand(1, 3, 72, 76)):
        torch.testing.assert_close(gm(x), model(x), rtol=1e-4, atol=1e-5)
    text = str(gm.graph)
    # One joint for the sum, which is an epilogue, none; the join of two branches; the pad and the pool; the depthwise.
    assert (text.count("join_labels.default"), text.count("window_labels.default")) == (1, 3)
    assert "prelu" not in text and text.count("label_pixels.default") == 1


def test_layers_are_taken_where_their_inputs_are_labelled(captured: Captured) -> None:
    assert {name for name, method in owners(captured, FORCED).items() if method} == TAKEN
    why = reasons(captured, FORCED)
    assert why["stem"] == "alike tiles are computed once"
    assert why["after"] == "nothing is known of which pixels of its input are alike"
    assert why["depthwise"] == "depthwise: it multiplies too little"
    assert why["gate"].startswith("1 pixels of outputs")


def test_the_cost_model_leaves_out_what_is_cheap_or_far_from_the_input() -> None:
    cheap, far = nn.Conv2d(3, 8, 3).eval(), nn.Sequential(nn.MaxPool2d(10), nn.Conv2d(8, 32, 3)).eval()
    (why,) = reasons(capture(cheap, (torch.zeros(1, 3, 102, 102),)), FlatConfig()).values()
    assert why == "96 multiply-adds for each label that a tile reads, fewer than 100"
    (why,) = reasons(capture(far, (torch.zeros(1, 8, 200, 200),)), FlatConfig()).values()
    assert why == "a tile is 44 pixels of the network's input long, more than 32: few are alike"


def test_overrides_end_the_labels_and_must_match(captured: Captured) -> None:
    config = FORCED.replace(layers={"square": {"enabled": False}})
    assert {name for name, method in owners(captured, config).items() if method} == {"stem"}
    assert reasons(captured, config)["square"] == "disabled by the configuration"
    with pytest.raises(ConfigError, match="'nothing' matches none of"):
        run_passes(captured, FORCED.replace(layers={"nothing": {"enabled": False}}))


def test_layers_of_other_methods_end_the_labels(captured: Captured) -> None:
    found = owners(captured, [FORCED, QuantizedConfig(cost_model=False, layers={"stem": {"enabled": False}})])
    assert found["stem"] == "flat" and found["square"] == found["head"] == "quantized"


def test_a_batch_that_varies_is_computed_without_it(model: Network) -> None:
    compiled = haste_compiler.compile(model.stem, (page(2),), config=FORCED, dynamic=True)
    assert compiled.layers[0].reason == "nothing is known of which pixels of its input are alike"
    torch.testing.assert_close(compiled(page(3)), model.stem(page(3)), rtol=1e-4, atol=1e-5)
