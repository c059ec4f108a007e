"""Whole networks whose even areas are computed once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import haste_compiler
from haste_compiler import CompiledModule, ConfigError, FlatConfig
from haste_compiler.methods.flat.statistics import FlatStats
from tests.vision import load_real, real_images

FORCED = FlatConfig(tile_tolerance=0.0, cost_model=False)


class Network(nn.Module):
    """Every operator that hands labels on, and one that doesn't."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.slope = nn.PReLU(16)
        self.square = nn.Conv2d(16, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point = nn.Conv2d(32, 24, 1)
        self.strided = nn.Conv2d(24, 16, 3, stride=2, padding=1)
        self.gate = nn.Conv2d(16, 16, 1)
        self.head = nn.Conv2d(16, 8, 3, padding=1)
        self.after = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slope(self.stem(x))
        x = F.relu(self.square(x) + x)
        x = torch.cat([F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 2, 1), self.depthwise(x)], 1)
        x = F.gelu(self.strided(self.point(x)))
        scaled = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = self.head(scaled) + self.head(x)
        return self.after(F.interpolate(x, scale_factor=2.0, mode="bilinear"))


def page(batch: int = 1) -> Tensor:
    """White with a few strokes."""
    x = torch.ones(batch, 3, 72, 76)
    x[:, :, 20:22, 10:40] = 0.1
    x[:, 1, 50:60, 50] = 0.3
    return x


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def compiled(model: nn.Module) -> CompiledModule:
    return haste_compiler.compile(model, (page(),), config=FORCED)


def test_a_page_gives_the_dense_compile_s_bits_with_fewer_tiles(model: nn.Module, compiled: CompiledModule) -> None:
    y, stats = compiled.run_with_stats(page())
    torch.testing.assert_close(y, model(page()), rtol=1e-4, atol=1e-5)
    dense = haste_compiler.compile(model, (page(),), config=FORCED.replace(enabled=False))
    assert torch.equal(y, dense(page())) and not dense.stats(page())
    assert set(stats) == {"stem", "square", "point", "strided", "head"}
    assert all(each.macs.spent < 0.6 * each.macs.dense and not each.inconsistency() for each in stats.values())


def test_an_image_without_even_areas_is_computed_plainly(model: nn.Module, compiled: CompiledModule) -> None:
    noise = torch.rand(1, 3, 72, 76)
    y, stats = compiled.run_with_stats(noise)
    torch.testing.assert_close(y, model(noise), rtol=1e-4, atol=1e-5)
    assert all(each.computed_plainly and each.macs.reduction == 0 for each in stats.values())


def test_the_tolerance_is_steered_and_bounds_what_moves(compiled: CompiledModule) -> None:
    exact, before = compiled.run_with_stats(page())
    compiled.tile_tolerance = 0.05
    try:
        near, after = compiled.run_with_stats(page())
    finally:
        compiled.tile_tolerance = 0.0
    assert 0 < (near - exact).norm() < 0.05 * exact.norm()
    assert sum(each.computed for each in after.values()) < sum(each.computed for each in before.values())
    last = after["stem"]
    assert isinstance(last, FlatStats) and last.error <= 0.05 * 64 * exact.norm()
    assert torch.equal(compiled(page()), exact)


def test_an_image_gives_the_same_bits_among_others(model: nn.Module, compiled: CompiledModule) -> None:
    images = torch.cat([page(), torch.rand(1, 3, 72, 76), page().flip(3)])
    together = haste_compiler.compile(model, (images,), config=FORCED.replace(tile_tolerance=0.01))
    alone = haste_compiler.compile(model, (page(),), config=FORCED.replace(tile_tolerance=0.01))
    for image, y in zip(images, together(images), strict=True):
        torch.testing.assert_close(y, alone(image[None])[0], rtol=0, atol=1e-6)


def test_what_is_not_finite_reaches_what_it_reaches_in_the_model(model: nn.Module, compiled: CompiledModule) -> None:
    for value in (float("nan"), float("inf")):
        x = page()
        x[0, 1, 30, 30] = value
        compiled.tile_tolerance = 0.01
        found, expected = compiled(x), model(x)
        compiled.tile_tolerance = 0.0
        assert torch.equal(found.isfinite(), expected.isfinite())


def test_a_saved_network_gives_the_same_bits_and_statistics(compiled: CompiledModule, tmp_path: Path) -> None:
    compiled.save(tmp_path / "net.haste")
    loaded = haste_compiler.load(tmp_path / "net.haste")
    y, stats = loaded.run_with_stats(page().numpy())
    assert np.array_equal(y, compiled(page()).numpy())
    assert {name: each.tally for name, each in stats.items()} == {
        name: each.tally for name, each in compiled.stats(page()).items()
    }
    loaded.tile_tolerance = 0.05
    assert not np.array_equal(loaded(page().numpy()), y)


def test_the_explanation_says_why_a_layer_is_not_taken(compiled: CompiledModule) -> None:
    reasons = {layer.name: layer.reason for layer in compiled.layers}
    assert reasons["stem"] == "alike tiles are computed once"
    assert reasons["after"] == "nothing is known of which pixels of its input are alike"
    assert reasons["depthwise"] == "depthwise: it multiplies too little"
    assert reasons["gate"].startswith("1 pixels of outputs")
    assert "flat tiles" in str(compiled.explain())


def test_what_is_cheap_is_left_out_by_the_cost_model(model: nn.Module) -> None:
    compiled = haste_compiler.compile(model, (page(),), config=FlatConfig(layers={"square": {"enabled": False}}))
    reasons = {layer.name: layer.reason for layer in compiled.layers if layer.method is None}
    assert reasons["stem"].startswith("108 mul") or "stem" not in reasons
    assert reasons["square"] == "disabled by the configuration" and not compiled.stats(page()).keys() & {"strided"}


def test_other_methods_layers_end_the_labels(model: nn.Module) -> None:
    both = [FORCED, haste_compiler.QuantizedConfig(cost_model=False, layers={"stem": {"enabled": False}})]
    compiled = haste_compiler.compile(model, (page(),), config=both)
    owners = {layer.name: layer.method for layer in compiled.layers}
    assert owners["stem"] == "flat" and owners["square"] == "quantized" and owners["after"] == "quantized"
    y = compiled(page())
    assert (y - model(page())).norm() < 0.05 * y.norm()


def test_a_batch_that_varies_is_computed_without_it(model: nn.Module) -> None:
    compiled = haste_compiler.compile(model, (page(2),), config=FORCED, dynamic=True)
    torch.testing.assert_close(compiled(page(2)), model(page(2)), rtol=1e-4, atol=1e-5)
    assert not compiled.stats(page(2))


def test_values_out_of_range_are_refused(compiled: CompiledModule) -> None:
    with pytest.raises(ConfigError, match="tile_tolerance must be finite and at least 0"):
        FlatConfig(tile_tolerance=-0.1)
    with pytest.raises(ConfigError, match="tile_tolerance must be finite"):
        compiled.tile_tolerance = float("inf")
    with pytest.raises(ConfigError, match="no kernels for it; FlatConfig is for CPUs"):
        haste_compiler.compile(nn.Conv2d(3, 4, 3), target="cuda -arch=sm_80", config=FlatConfig())


@pytest.mark.slow
def test_super_resolution_of_a_page() -> None:
    network, x = load_real("srvgg"), real_images("srvgg")
    compiled = haste_compiler.compile(network, (x,), config=FlatConfig())
    y, stats = compiled.run_with_stats(x)
    expected = network(x)
    assert (y - expected).norm() < 1e-5 * expected.norm()
    macs = sum((each.macs for each in stats.values()), next(iter(stats.values())).macs.replace(convolution=0))
    assert sum(each.macs.spent for each in stats.values()) < 0.6 * sum(each.macs.dense for each in stats.values()), macs
