"""A channel written to a neighbour's place garbles everything that a network of branches computes from there on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import haste_compiler.passes.fuse_affine  # noqa: F401  (registers torch.ops.haste.affine)
from haste_compiler.codegen.cpu.kernels.concatenation import concatenation_kernel
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from tests.codegen.kernels import build, on_x86, targets


@on_x86
@pytest.mark.parametrize("target", targets())
@settings(max_examples=6, deadline=None)
@given(
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 70), st.integers(1, 12)),
    channels=st.lists(st.integers(1, 150), min_size=1, max_size=3),
)
def test_it_is_the_concatenation(target: str, batch: int, size: tuple[int, int], channels: list[int]) -> None:
    """Channels around whole and partial vectors, images of one and of several tasks."""
    lanes = vector_unit(parse_target(target)).lanes
    kernel = build({"join": concatenation_kernel("join", batch, size, channels, lanes)}, target)
    parts = [torch.randn(batch, *size, count) for count in channels]
    y = torch.full((batch, *size, sum(channels)), float("nan"))
    kernel["join"](*parts, y)
    assert torch.equal(y, torch.cat(parts, 3))


@on_x86
@pytest.mark.parametrize("target", targets())
@settings(max_examples=6, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 12)),
    channels=st.lists(st.integers(1, 150), min_size=1, max_size=3),
    activation=st.sampled_from(["none", "relu", "silu", "clamp:-0.5:0.5"]),
)
def test_a_batch_norm_is_applied_on_the_way(
    target: str, size: tuple[int, int], channels: list[int], activation: str
) -> None:
    """Each channel gets its own scale and shift, in whichever part it lies."""
    lanes = vector_unit(parse_target(target)).lanes
    join = concatenation_kernel("join", 2, size, channels, lanes, affine=True, activation=activation)
    parts = [torch.randn(2, *size, count) for count in channels]
    scale, shift = torch.randn(sum(channels)), torch.randn(sum(channels))
    y = torch.full((2, *size, sum(channels)), float("nan"))
    build({"join": join}, target)["join"](*parts, scale, shift, y)
    expected = torch.ops.haste.affine([part.permute(0, 3, 1, 2) for part in parts], scale, shift, activation)
    assert torch.allclose(y, expected.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-6)
