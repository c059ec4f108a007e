"""Whole networks whose even areas are computed once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import haste_compiler
from haste_compiler import CompiledModule, ConfigError, FlatConfig
from haste_compiler.methods.flat.statistics import FlatStats
from tests.methods.flat.networks import FORCED, Network, page
from tests.vision import AbsentError, real_networks


@pytest.fixture(scope="module")
def model() -> Network:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def compiled(model: Network) -> CompiledModule:
    return haste_compiler.compile(model, (page(),), config=FORCED)


def test_a_page_gives_the_dense_compile_s_bits_with_fewer_tiles(model: Network, compiled: CompiledModule) -> None:
    y, stats = compiled.run_with_stats(page())
    torch.testing.assert_close(y, model(page()), rtol=1e-4, atol=1e-5)
    dense = haste_compiler.compile(model, (page(),), config=FORCED.replace(enabled=False))
    assert torch.equal(y, dense(page())) and not dense.stats(page())
    assert set(stats) == {"stem", "square", "point", "strided", "head", "head#2"}
    spent, dense_macs = (sum(getattr(each.macs, name) for each in stats.values()) for name in ("spent", "dense"))
    assert spent < 0.6 * dense_macs and not any(each.inconsistency() for each in stats.values())


def test_an_image_without_even_areas_is_computed_plainly(model: Network, compiled: CompiledModule) -> None:
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


def test_an_image_gives_the_same_bits_among_others(model: Network) -> None:
    images = torch.cat([page(), torch.rand(1, 3, 72, 76), page().flip(3)])
    first = nn.Sequential(model.stem, model.slope, model.square)
    compiled = haste_compiler.compile(first, config=FORCED.replace(tile_tolerance=0.01))
    for image, y in zip(images, compiled(images), strict=True):
        assert torch.equal(y, compiled(image[None])[0])


def test_what_is_not_finite_reaches_what_it_reaches_in_the_model(model: Network, compiled: CompiledModule) -> None:
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


def test_values_out_of_range_are_refused(compiled: CompiledModule) -> None:
    with pytest.raises(ConfigError, match="tile_tolerance must be finite and at least 0"):
        FlatConfig(tile_tolerance=-0.1)
    with pytest.raises(ConfigError, match="tile_tolerance must be finite"):
        compiled.tile_tolerance = float("inf")
    with pytest.raises(ConfigError, match="no kernels for it; FlatConfig is for CPUs"):
        haste_compiler.compile(nn.Conv2d(3, 4, 3), target="cuda -arch=sm_80", config=FlatConfig())


@pytest.mark.slow
def test_super_resolution_of_a_page() -> None:
    try:
        networks = real_networks()
        network = networks.load("srvgg")
        x = networks.prepare("srvgg", networks.page(384, 384)[None])
    except (AbsentError, ModuleNotFoundError) as error:
        pytest.skip(str(error))
    compiled = haste_compiler.compile(network, (x,), config=FlatConfig())
    y, stats = compiled.run_with_stats(x)
    expected = network(x)
    assert (y - expected).norm() < 1e-5 * expected.norm()
    spent, dense = (sum(getattr(each.macs, name) for each in stats.values()) for name in ("spent", "dense"))
    assert spent < 0.6 * dense
