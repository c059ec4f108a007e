"""Geometry against PyTorch's own output sizes, and the numbers it must refuse."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional as F

from haste_compiler.errors import InputError
from haste_compiler.graph.geometry import ConvGeometry, window_geometry

small = st.integers(1, 5)


@given(*([small] * 6), *([st.integers(0, 3)] * 4), *([st.integers(1, 12)] * 4))
def test_sizes(kh: int, kw: int, down: int, across: int, dh: int, dw: int, top: int, bottom: int, left: int, right: int,
               height: int, width: int, sh: int, sw: int) -> None:  # fmt: skip
    padded = F.pad(torch.ones(1, 1, height, width), (left, right, top, bottom))
    assume(padded.shape[2] > (kh - 1) * dh and padded.shape[3] > (kw - 1) * dw)
    y = F.conv2d(padded, torch.ones(1, 1, kh, kw), stride=(down, across), dilation=(dh, dw))
    geometry = ConvGeometry(
        1, 1, (kh, kw), (down, across), (top, bottom, left, right), (dh, dw), 1, (height, width), (sh, sw)
    )
    assert geometry.output_size == tuple(y.shape[2:])
    assert geometry.dense_macs == kh * kw * y.numel()
    assert geometry.effective_patch == (min(sh, y.shape[2]), min(sw, y.shape[3]))
    outputs = 0
    for row in range(geometry.patch_grid[0]):
        for column in range(geometry.patch_grid[1]):
            rows, columns = geometry.patch_outputs(row, column)
            outputs += rows * columns
            assert 1 <= rows <= sh
            assert 1 <= columns <= sw
            i, j = row * geometry.effective_patch[0], column * geometry.effective_patch[1]
            full = y[0, 0, i : i + rows, j : j + columns]
            image = padded[0, 0, i * down :, j * across :]
            reach = image[: (rows - 1) * down + (kh - 1) * dh + 1, : (columns - 1) * across + (kw - 1) * dw + 1]
            assert geometry.reads_padding(row, column) == bool((reach == 0).any())
            assert not (full < kh * kw).any() or geometry.reads_padding(row, column)
            assert geometry.window_origin(row, column) == (i * down - top, j * across - left)
    assert outputs == y.numel()


def test_a_window_is_as_large_as_what_its_patch_reads() -> None:
    geometry = ConvGeometry(8, 8, (3, 5), (2, 1), (1, 1, 2, 2), (1, 2), 1, (32, 32), (4, 8))
    assert geometry.window == (3 * 2 + 2 + 1, 7 + 8 + 1)
    assert geometry.window_pixels == 9 * 16
    assert geometry.window_step == (8, 8)
    assert hash(geometry) == hash(window_geometry(8, [32, 32], ([3, 5], [2, 1], [1, 1, 2, 2], [1, 2], 1, [4, 8]), 8))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernel": (0, 3)}, "kernel"),
        ({"stride": (1,)}, "stride"),
        ({"padding": (0, 0, -1, 0)}, "padding"),
        ({"dilation": (1, 0)}, "dilation"),
        ({"patch": (0, 8)}, "patch"),
        ({"groups": 3}, "groups=3"),
        ({"groups": 0}, "groups=0"),
        ({"input_size": (2, 9)}, "smaller than the 3x3 kernel"),
        ({"input_size": (0, 9)}, "smaller than the 3x3 kernel"),
    ],
)
def test_refused(change: dict[str, object], words: str) -> None:
    plain: dict[str, object] = {
        "in_channels": 8,
        "out_channels": 8,
        "kernel": (3, 3),
        "stride": (1, 1),
        "padding": (0, 0, 0, 0),
        "dilation": (1, 1),
        "groups": 1,
        "input_size": (9, 9),
        "patch": (8, 8),
    }
    ConvGeometry(**plain)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=words):
        ConvGeometry(**{**plain, **change})  # type: ignore[arg-type]
