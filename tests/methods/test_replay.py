"""A rewritten graph node by node: the same as the graph itself, steered, and as if no method did anything."""

import pytest
import torch
from torch import Tensor, fx, nn

from haste_compiler import HasteConfig
from haste_compiler.graph.capture import capture
from haste_compiler.methods.haste.method import Haste
from haste_compiler.methods.haste.settings import EXACT
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.methods.replay import Layer, Replay
from haste_compiler.testing.layers import _near_ties
from tests.methods.haste.networks import SmallNet, redundant_images

IMAGES = redundant_images(2, 3, 12, 10, seed=0)


@pytest.fixture
def model() -> nn.Module:
    return SmallNet().eval()


@pytest.fixture
def gm(model: nn.Module) -> fx.GraphModule:
    return run_passes(capture(model, (IMAGES,)), HasteConfig(min_reads=0, tolerance=None, flat_tolerance=0.6))


def test_every_layer_computes_what_the_graph_does(gm: fx.GraphModule) -> None:
    seen: list[Layer] = []

    def see(layer: Layer) -> Tensor:
        seen.append(layer)
        return layer.compute()

    (found,) = Replay(gm, see).flat([IMAGES])
    assert torch.equal(found, gm(IMAGES))
    assert {"haste", "conv", "linear"} <= {layer.kind for layer in seen}
    assert all((layer.owned is not None) == (layer.kind == "haste") for layer in seen)


def test_as_if_no_method_did_anything(model: nn.Module, gm: fx.GraphModule) -> None:
    expected = model(IMAGES)
    (plain,) = Replay(gm, Layer.plain).flat([IMAGES])
    torch.testing.assert_close(plain, expected, rtol=1e-5, atol=1e-6)
    assert (gm(IMAGES) - expected).abs().max() > 1e-3


def test_values_in_the_place_of_the_graphs(model: nn.Module, gm: fx.GraphModule) -> None:
    names = {node.meta["layer"] for node in gm.graph.nodes if "method" in node.meta}
    (found,) = Replay(gm, Layer.compute, dict.fromkeys(names, EXACT)).flat([IMAGES])
    torch.testing.assert_close(found, model(IMAGES), rtol=1e-5, atol=1e-6)


def test_a_method_that_says_nothing_is_run_as_it_is(gm: fx.GraphModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Haste, "deferred", lambda self: ())
    monkeypatch.setattr(Haste, "replayed", lambda self, *given: None)
    seen: list[str] = []

    def see(layer: Layer) -> Tensor:
        seen.append(layer.kind)
        return layer.compute()

    (found,) = Replay(gm, see).flat([IMAGES])
    assert torch.equal(found, gm(IMAGES)) and "haste" not in seen


class Rounded:
    """A layer that rounds its input to steps; all of it is decided together."""

    patch = None

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def compute(self, x: Tensor | None = None) -> Tensor:
        return (self.x if x is None else x).round()

    def plain(self) -> Tensor:
        return self.x


def test_a_near_tie_of_a_layer_without_patches() -> None:
    layer = Rounded(torch.tensor([[0.5, 3.1], [1.2, 2.0]]))
    expected = layer.compute()
    explained, count = _near_ties(layer, expected, expected + torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert explained.all() and explained.shape == expected.shape and count == 1
    explained, count = _near_ties(layer, expected, expected + torch.tensor([[0.0, 7.0], [0.0, 0.0]]))
    assert not explained.any() and count == 0
