"""The operator against a plain loop over patches and channels."""

import math

import numpy as np
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.methods.haste.ops.convolve import convolve
from haste_compiler.methods.haste.reference.convolution import haste_conv2d
from haste_compiler.methods.haste.reference.grouping import filter_norms
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.reference.windows import extract_windows, window_mask
from tests.methods.haste.networks import geometry_of, redundant_images, settings_of
from tests.methods.haste.reference import Layer, Patch, convolve_patch, decide, norms_of, rebuild, to_array


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    groups = draw(st.sampled_from((1, 1, 2, 3)))
    vertical, horizontal = pair(0, 3), pair(0, 3)
    layer = Layer(
        channels=groups * draw(st.integers(1, 8)),
        filters=groups * draw(st.integers(1, 3)),
        kernel=pair(1, 7),
        stride=pair(1, 3),
        padding=vertical + horizontal,
        dilation=pair(1, 2),
        groups=groups,
        size=pair(1, 11),
        patch=pair(1, 12),
        merge=draw(st.sampled_from(("mean", "projection"))),
        skip=draw(st.sampled_from(("none", "zeros", "flat"))),
        planes=draw(st.integers(1, 8)),
        tolerance=draw(st.sampled_from((math.inf, 0.0, 0.3, 0.6))),
        flat_tolerance=draw(st.sampled_from((0.0, 0.2, 0.5))),
    )
    assume(layer.outputs(0) > 0 and layer.outputs(1) > 0)
    return layer


def check(layer: Layer, batch: int, seed: int, with_bias: bool) -> list[Patch]:
    """Compare windows, codes' consequences, output and bound; return what the loop found."""
    torch.manual_seed(seed)
    x = redundant_images(batch, layer.channels, *layer.size, seed=seed)
    weight = torch.randn(layer.filters, layer.channels // layer.groups, *layer.kernel)
    bias = torch.randn(layer.filters) if with_bias else None
    geometry = geometry_of(layer)
    planes = draw_hyperplanes(geometry.window_pixels, seed, "layer")
    result = haste_conv2d(x, weight, bias, planes, settings_of(layer), geometry, merge=layer.merge, skip=layer.skip)
    windows, masks = extract_windows(x, geometry), window_mask(geometry)
    assert result.output.shape == (batch, layer.filters, layer.outputs(0), layer.outputs(1))
    assert geometry.patch_grid == (layer.grid(0), layer.grid(1))
    images, filters = to_array(x), to_array(weight)
    found = []
    for n, row, column in np.ndindex(batch, *geometry.patch_grid):
        patch = decide(images[n], norms_of(filters, layer), to_array(planes), layer, row, column)
        found.append(patch)
        where = n, row, column
        np.testing.assert_array_equal(to_array(windows[where]), patch.window.reshape(layer.channels, -1))
        np.testing.assert_array_equal(to_array(masks[row, column]), patch.mask.ravel())
        slot, coeff, offset = (part[where].tolist() for part in result.groups)
        if not patch.near_tie:
            assert slot == patch.slot
            np.testing.assert_allclose(coeff, patch.coeff, atol=1e-4)
            np.testing.assert_allclose(offset, patch.offset, atol=1e-5)
        rebuilt = rebuild(patch, slot, coeff, offset, layer.merge)
        rows, columns = geometry.patch_outputs(row, column)
        top, left = row * layer.side(0), column * layer.side(1)
        expected = convolve_patch(rebuilt, filters, layer, rows, columns)
        shift = 0 if bias is None else to_array(bias)[:, None, None]
        actual = to_array(result.output[n, :, top : top + rows, left : left + columns])
        np.testing.assert_allclose(actual, expected + shift, atol=2e-4)

        exact = convolve_patch(patch.window, filters, layer, rows, columns)
        bound = float(result.bound[where])
        assert np.linalg.norm(expected - exact) <= bound * (1 + 1e-4) + 1e-4
        loss = np.sqrt(((patch.window - rebuilt) ** 2).sum(axis=(1, 2))) @ to_array(filter_norms(weight, layer.groups))
        np.testing.assert_allclose(bound, math.sqrt(math.prod(layer.kernel)) * loss, rtol=1e-3, atol=1e-3)
    return found


@settings(max_examples=120)
@example(Layer(4, 2, (7, 7), (1, 1), (3, 3, 3, 3), (1, 1), 1, (1, 1), (8, 8)), 2, 0, True)
@example(Layer(8, 4, (1, 1), (3, 3), (0, 3, 0, 3), (1, 1), 2, (10, 7), (2, 2)), 2, 1, False)
@example(Layer(8, 4, (2, 3), (2, 1), (0, 1, 2, 0), (2, 1), 2, (9, 11), (3, 4), tolerance=0.3), 5, 2, True)
@given(layers(), st.integers(1, 5), st.integers(0, 2**16), st.booleans())
def test_operator_equals_the_loop(layer: Layer, batch: int, seed: int, with_bias: bool) -> None:
    check(layer, batch, seed, with_bias)


def test_the_loop_sees_every_kind_of_channel() -> None:
    layer = Layer(24, 4, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 2, (13, 10), (4, 4), planes=3, tolerance=0.5)
    found = check(layer, batch=3, seed=5, with_bias=True)
    clear = [patch for patch in found if not patch.near_tie]
    assert len(clear) > len(found) // 2
    kinds = set()
    for patch in clear:
        for channel, slot in enumerate(patch.slot):
            members = patch.slot.count(slot)
            kinds.add(
                "flat" if patch.offset[channel] else "zero" if slot < 0 else "alone" if members == 1 else "merged"
            )
    assert kinds == {"flat", "zero", "alone", "merged"}


@settings(max_examples=40)
@given(layers(), st.integers(1, 3), st.integers(0, 2**16))
def test_operators_in_a_row_equal_the_one_function(layer: Layer, batch: int, seed: int) -> None:
    x = redundant_images(batch, layer.channels, *layer.size, seed=seed)
    weight, bias = torch.randn(layer.filters, layer.channels // layer.groups, *layer.kernel), torch.randn(layer.filters)
    geometry, now = geometry_of(layer), settings_of(layer)
    planes = draw_hyperplanes(geometry.window_pixels, seed, "")
    residual = torch.randn(batch, layer.filters, *geometry.output_size)
    packed = now.pack()
    whole = haste_conv2d(
        x, weight, bias, planes, now.unpack(packed), geometry,
        merge=layer.merge, skip=layer.skip, residual=residual, activation="relu",
    )  # fmt: skip
    after = (layer.stride, layer.padding, layer.dilation, layer.groups, layer.patch)
    window = (layer.kernel, *after)
    codes = torch.ops.haste.hash(x, planes, packed, *window)
    norms = filter_norms(weight, layer.groups)
    groups: tuple[Tensor, ...] = torch.ops.haste.group(x, codes, norms, packed, *window, layer.merge, layer.skip)
    merged = torch.ops.haste.merge(x, groups[0], *window, layer.merge)
    y = convolve(merged, *groups, weight, bias, residual, layer.size, *after, "relu")
    for part, other in zip(groups, whole.groups, strict=True):
        torch.testing.assert_close(part, other, rtol=0, atol=0)
    torch.testing.assert_close(y, whole.output)
