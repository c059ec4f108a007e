"""What must hold for the operator whatever the data: exactness where it is promised, and its error's bound."""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.config import MAX_HYPERPLANES, HasteConfig
from haste_compiler.methods.haste.reference import windows
from haste_compiler.methods.haste.reference.convolution import HasteResult, haste_conv2d
from haste_compiler.methods.haste.reference.hashing import hash_windows
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.reference.windows import extract_windows
from haste_compiler.methods.haste.settings import Settings
from tests.methods.haste.networks import redundant_images


def convolve(
    x: Tensor, weight: Tensor, config: HasteConfig, bias: Tensor | None = None, groups: int = 1
) -> HasteResult:
    geometry = ConvGeometry(
        x.shape[1],
        weight.shape[0],
        (3, 3),
        (1, 1),
        (1, 1, 1, 1),
        (1, 1),
        groups,
        (x.shape[2], x.shape[3]),
        config.patch_for((x.shape[2], x.shape[3])),
    )
    planes = draw_hyperplanes(geometry.window_pixels, config.seed, "conv")
    return haste_conv2d(x, weight, bias, planes, Settings.of(config), geometry, merge=config.merge, skip=config.skip)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("merge", ["mean", "projection"])
def test_without_merging_it_is_the_plain_convolution(merge: Literal["mean", "projection"], groups: int) -> None:
    x, weight, bias = torch.randn(3, 16, 17, 14), torch.randn(8, 16 // groups, 3, 3), torch.randn(8)
    config = HasteConfig(merge=merge, tolerance=0.0, skip="none", num_hyperplanes=MAX_HYPERPLANES, patch_size=5)
    result = convolve(x, weight, config, bias, groups)
    torch.testing.assert_close(result.output, F.conv2d(x, weight, bias, padding=1, groups=groups), atol=1e-4, rtol=1e-5)
    assert int(result.counts[..., 1:].sum()) == 0
    assert float(result.bound.max()) == 0


@pytest.mark.parametrize("merge", ["mean", "projection"])
@pytest.mark.parametrize("copies", [2, 3, 8])
def test_duplicates_merge_without_error(merge: Literal["mean", "projection"], copies: int) -> None:
    x = torch.randn(2, 8, 16, 16).repeat(1, copies, 1, 1)
    weight = torch.randn(8, 8 * copies, 3, 3)
    result = convolve(x, weight, HasteConfig(merge=merge, tolerance=None, skip="none", num_hyperplanes=MAX_HYPERPLANES))
    assert int(result.counts[..., 0].sum()) == 0
    assert (result.counts[..., 1] == 8).all()
    assert (result.groups.slot == torch.arange(8).repeat(copies)).all()
    torch.testing.assert_close(result.output, F.conv2d(x, weight, padding=1), atol=1e-4, rtol=1e-4)


def test_scaled_copies_merge_without_error_by_projection_only() -> None:
    x = torch.randn(1, 1, 16, 16) * torch.linspace(0.5, 2, 8).view(1, 8, 1, 1)
    # Opposite channels keep the mean over the channels at zero: directions alone decide, all positive ones agree.
    x = torch.cat([x, -x], dim=1)
    weight = torch.randn(4, 16, 3, 3)
    dense = F.conv2d(x, weight, padding=1)
    errors = {}
    for merge in ("projection", "mean"):
        result = convolve(x, weight, HasteConfig(merge=merge, tolerance=None, skip="none"))
        assert (result.counts[..., 1] == 2).all()
        errors[merge] = float((result.output - dense).norm() / dense.norm())
    assert errors["projection"] < 1e-5 < 0.05 < errors["mean"]


def test_exact_changes_nothing() -> None:
    x, weight = redundant_images(4, 24, 16, 16, seed=3), torch.randn(8, 24, 3, 3)
    result = convolve(x, weight, HasteConfig.exact())
    torch.testing.assert_close(result.output, F.conv2d(x, weight, padding=1), atol=1e-4, rtol=1e-5)
    assert int(result.counts[..., 3].sum()) > 0


def test_flat_channels_carry_their_mean_up_to_the_border() -> None:
    x = torch.arange(1.0, 9).view(1, 8, 1, 1).expand(2, 8, 12, 12).contiguous()
    x[:, :2] = 30 * torch.randn(2, 2, 12, 12)
    weight = torch.randn(8, 8, 3, 3)
    result = convolve(x, weight, HasteConfig(patch_size=4, flat_tolerance=1e-3))
    assert (result.groups.slot[..., 2:] == -1).all()
    assert (result.groups.offset[..., 2:] == torch.arange(3.0, 9)).all()
    torch.testing.assert_close(result.output, F.conv2d(x, weight, padding=1), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("config", [HasteConfig(), HasteConfig.paper(), HasteConfig(tolerance=None, num_hyperplanes=2)])
@pytest.mark.parametrize("groups", [1, 3])
def test_bound_holds_for_every_patch_and_is_not_loose(config: HasteConfig, groups: int) -> None:
    x, weight = redundant_images(4, 24, 20, 20, seed=7), torch.randn(6, 24 // groups, 3, 3)
    result = convolve(x, weight, config.replace(patch_size=5), groups=groups)
    error = (result.output - F.conv2d(x, weight, padding=1, groups=groups)).unfold(2, 5, 5).unfold(3, 5, 5)
    size = error.square().sum(dim=(1, 4, 5)).sqrt()
    assert float(size.max()) > 0.1
    assert (size <= result.bound * (1 + 1e-5) + 1e-3).all()
    assert float((size / result.bound.clamp(min=1e-3)).max()) > 0.02


def test_a_smaller_tolerance_gives_a_smaller_bound() -> None:
    x, weight = redundant_images(4, 24, 16, 16, seed=7), torch.randn(6, 24, 3, 3)
    config = HasteConfig(tolerance=None, skip="none", num_hyperplanes=3)
    windows = x.unfold(2, 8, 8).unfold(3, 8, 8)
    norm = weight.square().sum(dim=(0, 2, 3)).sqrt()
    bounds = [convolve(x, weight, config).bound]
    for tolerance in (0.4, 0.2, 0.05, 0.01):
        bounds.append(convolve(x, weight, config.replace(tolerance=tolerance)).bound)
        assert float(bounds[-1].sum()) < float(bounds[-2].sum())
        # The windows are larger than their 8x8 patches, by one pixel on the two sides that are not padding.
        rms = (windows.square().sum(dim=(4, 5)) * norm.view(1, 24, 1, 1).square()).mean(dim=1).sqrt() * 81 / 64
        assert (bounds[-1] <= 3 * 24 * 2 * tolerance * rms).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e25])
@pytest.mark.parametrize("config", [HasteConfig(patch_size=4), HasteConfig.paper(), HasteConfig.exact()])
@pytest.mark.parametrize("groups", [1, 2])
def test_nan_and_inf_spread_as_in_the_plain_convolution(bad: float, config: HasteConfig, groups: int) -> None:
    x, weight = redundant_images(2, 16, 16, 16, seed=1), torch.randn(8, 16 // groups, 3, 3)
    x[0, 3, 5, 6] = bad
    result = convolve(x, weight, config, groups=groups)
    dense = F.conv2d(x, weight, padding=1, groups=groups)
    touched = ~dense.isfinite() | (dense.abs() > 1e20)
    assert touched.any()
    torch.testing.assert_close(result.output[touched], dense[touched], equal_nan=True, rtol=1e-5, atol=0)
    assert result.output[~touched].isfinite().all()
    # The broken patch is computed exactly: it adds nothing to the bound.
    assert result.bound.isfinite().all()
    clean = convolve(torch.cat([x[1:], x[1:]]), weight, config, groups=groups)
    torch.testing.assert_close(result.output[1], clean.output[0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e25])
def test_wild_filters_spread_as_in_the_plain_convolution(bad: float) -> None:
    x, weight = torch.randn(2, 16, 16, 16), torch.randn(8, 8, 3, 3)
    x[:, 1] = 2 * x[:, 0]
    weight[2, 1, 0, 1] = bad
    for config in (HasteConfig(num_hyperplanes=2), HasteConfig.paper()):
        result = convolve(x, weight, config, groups=2)
        dense = F.conv2d(x, weight, padding=1, groups=2)
        # Whether padding times NaN is NaN differs between PyTorch's own kernels: the border is left out.
        torch.testing.assert_close(result.output[:, 2, 1:], dense[:, 2, 1:], equal_nan=True)
        assert int(result.counts[..., 0, 1].sum()) == 0


def test_all_zero_input_gives_the_bias() -> None:
    bias = torch.randn(8)
    for config in (HasteConfig(), HasteConfig.paper(), HasteConfig.exact()):
        result = convolve(torch.zeros(2, 16, 9, 9), torch.randn(8, 16, 3, 3), config, bias)
        torch.testing.assert_close(result.output, bias.view(1, 8, 1, 1).expand(2, 8, 9, 9))
        assert int((result.groups.slot >= 0).sum()) == (0 if config.skip != "none" else result.groups.slot.numel())


def test_empty_batch() -> None:
    result = convolve(torch.zeros(0, 8, 9, 9), torch.randn(8, 8, 3, 3), HasteConfig())
    assert result.output.shape == (0, 8, 9, 9)


@pytest.mark.parametrize("limit", [1, 700, 5000])
def test_pieces_make_no_difference(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = redundant_images(3, 12, 15, 11, seed=2), torch.randn(4, 12, 3, 3)
    whole = convolve(x, weight, HasteConfig(patch_size=4))
    monkeypatch.setattr(windows, "_CHUNK_ELEMENTS", limit)
    pieces = convolve(x, weight, HasteConfig(patch_size=4))
    torch.testing.assert_close(pieces.output, whole.output)
    torch.testing.assert_close(pieces.bound, whole.bound)
    assert (pieces.groups.slot == whole.groups.slot).all()


def test_images_of_a_batch_do_not_see_each_other() -> None:
    x, weight = redundant_images(5, 16, 12, 12, seed=4), torch.randn(8, 16, 3, 3)
    whole = convolve(x, weight, HasteConfig(patch_size=4)).output
    for n in range(5):
        torch.testing.assert_close(convolve(x[n : n + 1], weight, HasteConfig(patch_size=4)).output[0], whole[n])


def test_codes_depend_on_direction_from_the_mean_only() -> None:
    geometry = ConvGeometry(8, 8, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (8, 8), (8, 8))
    cut = extract_windows(torch.randn(2, 8, 8, 8), geometry).flatten(0, 2)
    planes = draw_hyperplanes(geometry.window_pixels, 0, "")
    codes = hash_windows(cut, planes, 1)
    assert codes.dtype == torch.int32
    assert int(codes.min()) >= 0
    assert (codes == hash_windows(cut * 4, planes, 1)).all()
    assert (codes[:, [3, 1, 0, 2, 4, 7, 6, 5]] == hash_windows(cut[:, [3, 1, 0, 2, 4, 7, 6, 5]], planes, 1)).all()
    assert (hash_windows(cut, planes[:5], 1) == codes % 32).all()
    centred = cut - cut.mean(dim=1, keepdim=True)
    agree = (hash_windows(centred, planes, 1) == codes).float().mean()
    assert float(agree) > 0.9


def test_hyperplanes_are_ternary_seeded_and_never_blank() -> None:
    planes = draw_hyperplanes(400, 0, "layer1.conv")
    assert planes.shape == (MAX_HYPERPLANES, 400)
    assert planes.dtype == torch.float32
    shares = [float((planes == value).float().mean()) for value in (-1, 0, 1)]
    assert shares == pytest.approx([1 / 6, 2 / 3, 1 / 6], abs=0.02)
    assert (planes == draw_hyperplanes(400, 0, "layer1.conv")).all()
    assert not torch.equal(planes, draw_hyperplanes(400, 1, "layer1.conv"))
    assert not torch.equal(planes, draw_hyperplanes(400, 0, "layer2.conv"))
    for pixels in (1, 2, 3):
        assert (draw_hyperplanes(pixels, 0, "").abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("nonzeros", [2, 6])
def test_hyperplanes_of_few_entries_are_balanced_and_differ(nonzeros: int) -> None:
    planes = draw_hyperplanes(36, 3, "layer", nonzeros)
    assert (planes > 0).sum(dim=1).tolist() == (planes < 0).sum(dim=1).tolist() == [nonzeros // 2] * len(planes)
    assert len(set(map(tuple, planes.tolist()))) == len(planes)
    assert torch.equal(planes, draw_hyperplanes(36, 3, "layer", nonzeros))
    assert not torch.equal(planes, draw_hyperplanes(36, 3, "other", nonzeros))


def test_a_window_smaller_than_a_plane_asks_for_gives_one_entry_a_pixel() -> None:
    assert draw_hyperplanes(1, 0, "layer", 2).tolist() == [[1.0]] * MAX_HYPERPLANES
