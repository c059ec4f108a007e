"""A mean over one axis: a stride left out reads another's elements."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import haste_compiler
from haste_compiler.codegen.cpu.kernels.attention import Operand
from haste_compiler.codegen.cpu.kernels.axis_mean import axis_mean_kernel
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from tests.codegen.kernels import run_kernel


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=3), st.integers(1, 40), st.data())
def test_it_is_the_mean(sizes: list[int], width: int, data: st.DataObject) -> None:
    """Of a tensor whose other axes lie in any order."""
    axis = data.draw(st.integers(0, len(sizes) - 1))
    order = data.draw(st.permutations(range(len(sizes))))
    memory = torch.randn(*(sizes[place] for place in order), width)
    x = memory.permute(*(order.index(place) for place in range(len(sizes))), len(sizes))
    strides, shape = list(x.stride()), list(x.shape)
    step, count = strides.pop(axis), shape.pop(axis)
    place = Operand(tuple(memory.shape), tuple(strides))
    lanes = vector_unit(parse_target("llvm")).lanes
    y = run_kernel(axis_mean_kernel("mean", tuple(shape), place, (count, step), lanes), "llvm", shape, memory)
    torch.testing.assert_close(y, x.mean(axis))


class OfHeads(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        key = x.unflatten(-1, (2, 3, 8)).permute(2, 0, 3, 1, 4)[1]
        return key.mean(1), key.mean((1,), keepdim=True)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_network_takes_it(dynamic: bool) -> None:
    x = torch.randn(2, 7, 48)
    compiled = haste_compiler.compile(OfHeads(), (x,), fallback=False, cache=False, dynamic=dynamic)
    for found, expected in zip(compiled(x), OfHeads()(x), strict=True):
        torch.testing.assert_close(found, expected)
