"""MAC counts against counting patch by patch, and by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haste_compiler.methods.haste.macs import count_macs
from haste_compiler.methods.haste.reference.convolution import haste_conv2d
from haste_compiler.methods.haste.reference.hashing import hash_windows
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.reference.merging import count_channels
from haste_compiler.methods.haste.reference.windows import extract_windows
from haste_compiler.methods.macs import MacCount
from tests.methods.haste.networks import geometry_of, redundant_images, settings_of
from tests.methods.haste.reference import Layer, read_window, to_array
from tests.methods.haste.test_against_loop import layers

_COUNTED = (
    "dense",
    "hashing",
    "centring",
    "norms",
    "coefficients",
    "merge_inputs",
    "merge_filters",
    "convolution",
    "means",
)


def slow_count(layer: Layer, slots: torch.Tensor, offsets: torch.Tensor, codes: torch.Tensor) -> dict[str, float]:
    """The same count, one channel at a time."""
    filters, channels = layer.filters // layer.groups, layer.channels // layer.groups
    taps, pixels = math.prod(layer.kernel), layer.window_side(0) * layer.window_side(1)
    count: dict[str, float] = dict.fromkeys(_COUNTED, 0)
    blank = to_array(torch.zeros(layer.channels, *layer.size))
    for n in range(slots.shape[0]):
        count["dense"] += layer.filters * channels * taps * layer.outputs(0) * layer.outputs(1)
        for row in range(layer.grid(0)):
            for column in range(layer.grid(1)):
                rows = min(layer.side(0), layer.outputs(0) - row * layer.side(0))
                columns = min(layer.side(1), layer.outputs(1) - column * layer.side(1))
                _, mask = read_window(blank, layer, row, column)
                used = mask[: (rows - 1) * layer.stride[0] + (layer.kernel[0] - 1) * layer.dilation[0] + 1]
                used = used[:, : (columns - 1) * layer.stride[1] + (layer.kernel[1] - 1) * layer.dilation[1] + 1]
                for group in range(layer.groups):
                    own = slice(group * channels, (group + 1) * channels)
                    slot, offset = slots[n, row, column, own].tolist(), offsets[n, row, column, own].tolist()
                    code = codes[n, row, column, own].tolist()
                    any_flat = False
                    for c in range(channels):
                        count["hashing"] += pixels * layer.planes / 3
                        count["centring"] += pixels
                        if math.isfinite(layer.tolerance) or layer.skip != "none":
                            count["norms"] += pixels
                        if slot[c] < 0:
                            if offset[c] and used.all():
                                count["means"] += filters
                            elif offset[c]:
                                count["means"] += filters * taps
                                any_flat = True
                            continue
                        leads = slot[c] == c + own.start
                        if leads:
                            count["convolution"] += filters * taps * rows * columns
                        # At first all channels of one code are merged; those of which one left, once more.
                        first = sum(code[other] == code[c] and slot[other] >= 0 for other in range(channels))
                        last = slot.count(slot[c])
                        rounds = (first > 1) + (1 < last < first)
                        count["merge_inputs"] += rounds * pixels
                        if layer.merge == "projection":
                            count["coefficients"] += rounds * 2 * pixels
                        if math.isfinite(layer.tolerance):
                            count["coefficients"] += rounds * pixels
                        if last > 1:
                            count["merge_filters"] += 0 if leads else filters * taps
                    if any_flat:
                        count["means"] += filters * taps * rows * columns
    count["hashing"] = math.floor(count["hashing"] + 1e-6)
    return count


@settings(max_examples=60)
@given(layers(), st.integers(1, 3), st.integers(0, 2**16))
def test_counts_equal_the_slow_count(layer: Layer, batch: int, seed: int) -> None:
    x = redundant_images(batch, layer.channels, *layer.size, seed=seed)
    weight = torch.randn(layer.filters, layer.channels // layer.groups, *layer.kernel)
    geometry = geometry_of(layer)
    planes = draw_hyperplanes(geometry.window_pixels, seed, "")
    result = haste_conv2d(x, weight, None, planes, settings_of(layer), geometry, merge=layer.merge, skip=layer.skip)
    macs = count_macs(geometry, result.counts, layer.planes, layer.merge, math.isfinite(layer.tolerance), layer.skip)
    codes = hash_windows(extract_windows(x, geometry).flatten(0, 2), planes[: layer.planes], layer.groups)
    codes = codes.view(result.groups.slot.shape)
    expected = slow_count(layer, result.groups.slot, result.groups.offset, codes)
    assert {"dense": macs.dense, **macs.parts} == pytest.approx(expected)


def test_channels_are_counted_by_kind() -> None:
    slot = torch.tensor([0, 0, -1, 3, 3, 3, 6, -1]).view(1, 1, 1, 8)
    offset = torch.tensor([0, 0, 0.5, 0, 0, 0, 0, 0]).view(1, 1, 1, 8)
    merges = torch.tensor([2, 2, 0, 1, 1, 1, 1, 0]).view(1, 1, 1, 8)
    assert count_channels(slot, offset, 1, merges).flatten().tolist() == [1, 2, 5, 1, 1, 8]
    grouped = torch.tensor([0, 0, -1, 3, 4, 4, 6, -1]).view(1, 1, 1, 8)
    assert count_channels(grouped, offset, 2, merges).view(2, 6).tolist() == [[1, 1, 2, 0, 1, 5], [1, 1, 2, 1, 0, 3]]


def test_by_hand() -> None:
    layer = Layer(8, 16, (3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1, (6, 6), (4, 4), planes=6, tolerance=0.4)
    counts = torch.tensor([1, 2, 5, 1, 1, 8]).view(1, 1, 1, 1, 6)
    macs = count_macs(geometry_of(layer), counts, 6, "projection", True, "flat")
    assert macs == MacCount(
        dense=8 * 16 * 9 * 16,
        hashing=8 * 36 * 2,
        centring=8 * 36,
        norms=8 * 36,
        coefficients=3 * 8 * 36,
        merge_inputs=8 * 36,
        merge_filters=3 * 16 * 9,
        convolution=3 * 16 * 9 * 16,
        means=16,
    )
    assert macs.spent == sum(macs.parts.values()) and macs.to_dict()["spent"] == macs.spent
    assert macs.reduction == pytest.approx(1 - macs.spent / macs.dense)
    paper = count_macs(geometry_of(layer), counts, 6, "mean", False, "none")
    assert (paper.norms, paper.coefficients) == (0, 0)
    assert (macs + macs).convolution == 2 * macs.convolution
    assert sum([macs, macs], MacCount()).dense == 2 * macs.dense
    assert MacCount().reduction == 0
