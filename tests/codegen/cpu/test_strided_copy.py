"""A row that begins elsewhere than its stride says is another window's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haste_compiler.codegen.cpu.kernels.strided_copy import strided_copy_kernel
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from tests.codegen.kernels import on_x86, run_kernel, targets


@on_x86
@pytest.mark.parametrize("target", targets())
@settings(max_examples=10, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    row=st.integers(1, 40),
    data=st.data(),
)
def test_it_is_the_view(target: str, sizes: list[int], row: int, data: st.DataObject) -> None:
    """Of permuted and of cut memory, rows of all lengths."""
    order = data.draw(st.permutations(range(len(sizes))))
    skipped = data.draw(st.integers(0, 3))
    x = torch.randn(*sizes, row + skipped)
    view = x.permute(*order, len(sizes))[..., skipped:]
    lanes = vector_unit(parse_target(target)).lanes
    kernel = strided_copy_kernel("copy", x.shape, view.shape, view.stride(), int(view.storage_offset()), lanes)
    assert torch.equal(run_kernel(kernel, target, tuple(view.shape), x), view)
