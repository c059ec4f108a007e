"""A channel written to a neighbour's place garbles everything that a ShuffleNet computes from there on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import haste_compiler.passes.fuse_channel_shuffle  # noqa: F401  (registers torch.ops.haste.channel_shuffle)
from haste_compiler.codegen.cpu.kernels.channel_shuffle import channel_shuffle_kernel
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from tests.codegen.kernels import build, on_x86, targets


@on_x86
@pytest.mark.parametrize("target", targets())
@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 70), st.integers(1, 12)),
    groups=st.integers(1, 6),
    channels=st.integers(1, 70),
    joined=st.booleans(),
    data=st.data(),
)
def test_it_is_the_shuffle(
    target: str, batch: int, size: tuple[int, int], groups: int, channels: int, joined: bool, data: st.DataObject
) -> None:
    """Channels around whole and partial vectors, in registers and with strides, of one tensor and of several."""
    first = data.draw(st.integers(0, channels - 1), "first")
    wanted = (groups * first, groups * data.draw(st.integers(first + 1, channels), "end"))
    of_each = [channels] * groups if joined else [channels * groups]
    lanes = vector_unit(parse_target(target)).lanes
    kernel = channel_shuffle_kernel("shuffle", batch, size, of_each, groups, wanted, lanes)
    parts = [torch.randn(batch, *size, count) for count in of_each]
    y = torch.full((batch, *size, wanted[1] - wanted[0]), float("nan"))
    build({"shuffle": kernel}, target)["shuffle"](*parts, y)
    expected = torch.ops.haste.channel_shuffle([part.permute(0, 3, 1, 2) for part in parts], groups, *wanted)
    assert torch.equal(y, expected.permute(0, 2, 3, 1))
