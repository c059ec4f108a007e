"""A row or column read one too far: edges of a segmentation that are shifted or take in what lies behind the image."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.codegen.cpu.kernels.resize import pack_positions, resize_kernel
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from tests.codegen.kernels import assert_near, nchw, nhwc, on_x86, run_kernel, targets

sides = st.tuples(st.integers(1, 17), st.integers(1, 17))


def axis(old: int, new: int, align: bool) -> Tensor:
    resized = F.interpolate(torch.eye(old)[None, :, :, None], (new, 1), mode="bilinear", align_corners=align)
    return resized[0, :, :, 0].T


@on_x86
@pytest.mark.parametrize("target", targets())
@settings(max_examples=15, deadline=None)
@given(batch=st.integers(1, 3), channels=st.integers(1, 40), before=sides, after=sides, align=st.booleans())
def test_it_is_bilinear_interpolation(
    target: str, batch: int, channels: int, before: tuple[int, int], after: tuple[int, int], align: bool
) -> None:
    """Larger, smaller and of the same size, down to one pixel, with both conventions for the corners."""
    lanes = vector_unit(parse_target(target)).lanes
    kernel = resize_kernel("resize", batch, before, after, channels, lanes)
    x = torch.randn(batch, channels, *before)
    axes = [axis(old, new, align).numpy() for old, new in zip(before, after, strict=True)]
    tables = [table for matrix in axes for table in pack_positions(matrix)]
    y = run_kernel(kernel, target, (batch, *after, channels), nhwc(x), *tables)
    assert_near(nchw(y), F.interpolate(x.double(), after, mode="bilinear", align_corners=align))
