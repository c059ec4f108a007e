"""Where work was done: the maps say what the kernels counted, tile for tile."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import haste_compiler
from haste_compiler import HasteConfig, QuantizedConfig, TokenConfig
from haste_compiler.methods.tokens.statistics import TokenStats
from haste_compiler.methods.work_map import WorkMap
from haste_compiler.report.observation import Observation, observe
from haste_compiler.report.work_map import work_maps
from tests.methods.flat.networks import FORCED, page
from tests.methods.flat.networks import Network as FlatNetwork
from tests.methods.haste.networks import redundant_images
from tests.methods.tokens.networks import images, vit

HASTE = HasteConfig(cost_model=False, patch_size=4, num_hyperplanes=8)


class Merging(nn.Module):
    """A convolution with groups, and one whose output no patch divides."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=2)
        self.odd = nn.Conv2d(32, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.odd(torch.relu(self.grouped(x)))


@pytest.fixture(scope="module")
def merging() -> tuple[Merging, haste_compiler.CompiledModule, Tensor]:
    torch.manual_seed(0)
    model, x = Merging().eval(), redundant_images(2, 32, 18, 21)
    return model, haste_compiler.compile(model, (x,), config=HASTE), x


@pytest.fixture(scope="module")
def seen(merging: tuple[Merging, haste_compiler.CompiledModule, Tensor]) -> Observation:
    model, compiled, x = merging
    return observe(model, compiled, (x,), image=1)


def test_channels_of_patches_are_the_kernels_count(
    merging: tuple[Merging, haste_compiler.CompiledModule, Tensor],
) -> None:
    _, compiled, x = merging
    stats = compiled.stats(x)
    by_image = [work_maps(stats, x.shape, image) for image in range(2)]
    for name, layer in stats.items():
        maps = [each[name] for each in by_image]
        assert {each.source for each in maps} == {"statistics"}
        assert np.mean([each.mean for each in maps]) == pytest.approx(layer.kept)
        assert not np.array_equal(maps[0].share, maps[1].share)
    assert by_image[0]["odd"].plane == (16, 19) and by_image[0]["odd"].share.shape == (4, 5)


def test_what_a_method_changed_is_within_its_bound(seen: Observation) -> None:
    for name, change in seen.changes.items():
        bound = seen.stats[name].image_bound
        assert bound is not None and 0 < change.error <= bound
        assert 0 < change.relative < 1


def test_merged_channels_are_those_of_the_patch_with_fewest_left(seen: Observation) -> None:
    merged = seen.merged["odd"]
    share = seen.maps["odd"].share
    assert share[merged.patch] == pytest.approx(share.min())
    channels = [channel for group in merged.groups for channel in group.channels]
    assert len(channels) == len(set(channels))
    for group in merged.groups:
        assert len(group.channels) >= 2 and group.windows.shape[0] == len(group.channels)
        assert group.windows.shape[1:] == group.merged.shape == (6, 6)
    assert [len(group.channels) for group in merged.groups] == sorted(
        (len(group.channels) for group in merged.groups), reverse=True
    )


def test_flat_tiles_are_as_many_as_the_kernels_computed() -> None:
    torch.manual_seed(0)
    model, x = FlatNetwork().eval(), page()
    compiled = haste_compiler.compile(model, (x,), config=FORCED)
    assert work_maps(compiled.stats(x), x.shape) == {}
    seen = observe(model, compiled, (x,))
    assert set(seen.maps) == set(seen.stats)
    for name, found in seen.maps.items():
        tally = seen.stats[name].tally
        assert tally is not None and found.source == "reference"
        assert (found.share.sum(), found.share.size) == (tally.kept, tally.total)
        assert found.groups is not None
        copies = found.groups.ravel()
        assert np.array_equal(found.share.ravel() == 1, copies == np.arange(copies.size))


def test_tokens_share_the_work_of_their_group() -> None:
    model, x = vit(fixed=0, pool="mean"), images()
    compiled = haste_compiler.compile(model, (x,), config=TokenConfig(r=5))
    stats = compiled.stats(x)
    maps = work_maps(stats, x.shape, image=1)
    left = {name: len(np.unique(each.groups)) for name, each in maps.items() if each.groups is not None}
    assert set(maps) == set(stats) and sorted(set(left.values())) == [21, 26, 31]
    for name, found in maps.items():
        layer = stats[name]
        assert isinstance(layer, TokenStats) and found.share.shape == (6, 6)
        assert found.mean == pytest.approx(layer.macs.convolution / layer.macs.dense, rel=1e-5)


def test_tokens_before_those_of_the_image_are_in_no_tile() -> None:
    x = images()
    compiled = haste_compiler.compile(vit(fixed=3), (x,), config=TokenConfig(r=5))
    assert {found.share.shape for found in work_maps(compiled.stats(x), x.shape).values()} == {(6, 6)}


def test_a_method_that_saves_work_nowhere_has_no_map() -> None:
    torch.manual_seed(0)
    model, x = Merging().eval(), redundant_images(1, 32, 18, 21)
    compiled = haste_compiler.compile(model, (x,), config=QuantizedConfig(cost_model=False, max_error=None))
    seen = observe(model, compiled, (x,))
    assert not seen.maps and not seen.merged
    assert seen.changes and all(0 < change.relative < 0.1 for change in seen.changes.values())


def test_a_map_is_laid_over_an_image_of_any_size() -> None:
    share = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)
    found = WorkMap(share, "channels", "statistics", tile=(4, 4), plane=(6, 7))
    over = found.over((12, 14))
    assert over[7, 7] == 0.0 and over[7, 8] == 0.25 and over[8, 7] == 0.5 and over[11, 13] == 1.0
    assert np.array_equal(found.over((2, 2)), [[0.0, 0.0], [0.0, 0.0]])
