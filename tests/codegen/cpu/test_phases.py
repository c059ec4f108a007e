"""A pixel that goes to another phase, or comes back from one, is another pixel's neighbour."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.codegen.cpu.kernels.phases import join_kernel, phase_size, split_kernel
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from tests.codegen.kernels import on_x86, run_kernel, targets


@on_x86
@pytest.mark.parametrize("target", targets())
@settings(max_examples=8, deadline=None)
@given(
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.integers(1, 20),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_every_pixel_goes_to_its_phase_and_back(
    target: str, batch: int, size: tuple[int, int], channels: int, dilation: tuple[int, int]
) -> None:
    """Images that the dilation divides and others, with zeros beyond their end."""
    lanes, (rows, columns) = vector_unit(parse_target(target)).lanes, phase_size(size, dilation)
    x = torch.randn(batch, *size, channels)
    out = (batch * dilation[0] * dilation[1], rows, columns, channels)
    y = run_kernel(split_kernel("split", batch, size, channels, dilation, lanes), target, out, x)
    padded = F.pad(x, (0, 0, 0, columns * dilation[1] - size[1], 0, rows * dilation[0] - size[0]))
    phases = padded.reshape(batch, rows, dilation[0], columns, dilation[1], channels).permute(0, 2, 4, 1, 3, 5)
    assert torch.equal(y, phases.reshape(out))
    back = run_kernel(join_kernel("join", batch, size, channels, dilation, lanes), target, tuple(x.shape), y)
    assert torch.equal(back, x)


@pytest.mark.parametrize(("size", "dilation"), [((16, 20), 2), ((15, 13), (3, 2)), ((14, 14), 5)])
def test_dilated_convolutions(size: tuple[int, int], dilation: int | tuple[int, int]) -> None:
    """By phases where the image is many dilations wide, without the taps on padding where it isn't."""
    conv = nn.Conv2d(32, 32, 3, padding=dilation, dilation=dilation)
    model, x = nn.Sequential(conv, nn.ReLU()).eval(), torch.randn(2, 32, *size)
    compiled = haste_compiler.compile(model, (x,), config=HasteConfig(enabled=False), cache=False)
    torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-5)
    symbols = [symbol for symbol, _ in next(iter(compiled._made.values())).executable.kernels]
    assert any(symbol.startswith("split_phases") for symbol in symbols) == (dilation != 5)


def test_what_is_not_finite_stays_where_it_is() -> None:
    """Of a pixel that is NaN, its neighbours a dilation away are NaN and no others."""
    model, x = nn.Sequential(nn.Conv2d(32, 32, 3, padding=2, dilation=2)).eval(), torch.randn(1, 32, 16, 16)
    x[0, 3, 7, 7] = torch.nan
    compiled = haste_compiler.compile(model, (x,), config=HasteConfig(enabled=False), cache=False)
    torch.testing.assert_close(compiled(x), model(x), equal_nan=True, atol=1e-5, rtol=1e-5)
