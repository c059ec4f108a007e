"""A shift that is lost, or a factor that is taken for another's, changes what the network computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import haste_compiler
from haste_compiler import HasteConfig
from tests.passes.checking import Fn, assert_same, calls, check_passes

Map = Callable[[Any, Tensor], Tensor]


def network(function: Map, kernel: int = 1) -> nn.Module:
    """A map of channels between two convolutions."""
    torch.manual_seed(0)
    scale, shift = torch.randn(1, 24, 1, 1), torch.randn(24, 1, 1)
    before, after = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 8, kernel)
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 24, 1), nn.Sigmoid())

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.after(function(self, self.before(x).relu()))

    return Fn(forward, before=before, after=after, gate=gate, scale=scale, shift=shift).eval()


def response_norm(m: Any, x: Tensor) -> Tensor:
    """As ConvNeXtV2's (arXiv 2301.00808)."""
    norm = x.norm(p=2, dim=(2, 3), keepdim=True)
    return x + torch.addcmul(m.shift[None], m.scale, x * (norm / (norm.mean(dim=1, keepdim=True) + 1e-6)))


def gated(m: Any, x: Tensor) -> Tensor:
    return x * m.gate(x)


def gated_and_mapped(m: Any, x: Tensor) -> Tensor:
    return x * m.gate(x) * m.scale + m.shift + 0.5 * x


def constant(m: Any, x: Tensor) -> Tensor:
    return x + m.scale * x + m.shift


def shifted_then_gated(m: Any, x: Tensor) -> Tensor:
    """The shift depends on the gate: no constant."""
    return (x + m.shift) * m.gate(x)


def of_two_maps(m: Any, x: Tensor) -> Tensor:
    return x * m.scale + x.flip(2) * m.gate(x) + m.shift


MAPS = [response_norm, gated, gated_and_mapped, constant, shifted_then_gated, of_two_maps]


@pytest.mark.parametrize("function", MAPS)
def test_the_values_stay(function: Map) -> None:
    """What is left of it: one product with a factor for each channel; none where all is constant."""
    gm = check_passes(network(function), torch.randn(2, 3, 10, 12))
    images = [node for node in gm.graph.nodes if node.op == "call_function" and node.meta["val"].shape[2:] == (10, 12)]
    maps = [node for node in images if str(node.target) in ("aten.mul.Tensor", "aten.add.Tensor")]
    assert len(maps) == {"response_norm": 1, "gated": 1, "gated_and_mapped": 1, "constant": 0}.get(
        function.__name__, len(maps)
    )


def test_a_wider_convolution_keeps_its_shift() -> None:
    """Padding is not shifted, and only a 1×1 convolution's filters have one factor for each product."""
    gm = check_passes(network(constant, kernel=3), torch.randn(1, 3, 10, 12))
    assert calls(gm)["aten.add"] + calls(gm)["haste.affine"] > 0


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("function", [response_norm, gated, shifted_then_gated])
def test_it_is_compiled(function: Map, batch: int) -> None:
    """The filters are scaled instead of one image; of several the images are."""
    model, x = network(function), torch.randn(batch, 3, 16, 16)
    compiled = haste_compiler.compile(model, (x,), config=HasteConfig(enabled=False))
    assert_same(compiled(x), model(x))
    symbols = [symbol for symbol, _ in next(iter(compiled._made.values())).executable.kernels]
    assert any(symbol.startswith("scale_filters") for symbol in symbols) == (batch == 1)
    assert not compiled.explain().fallbacks
