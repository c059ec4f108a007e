"""A wrong layout change garbles every activation that goes in or out."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from haste_compiler.codegen.cpu.kernels.transpose import transpose_kernel
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from tests.codegen.kernels import build, on_x86, targets


@on_x86
@pytest.mark.parametrize("target", targets())
@settings(max_examples=15, deadline=None)
@given(batch=st.integers(1, 3), rows=st.integers(1, 90), columns=st.integers(1, 90))
@example(batch=2, rows=3, columns=2 * 16 * 64 + 37)
@example(batch=1, rows=3, columns=16 * 64)
@example(batch=2, rows=4, columns=7)
@example(batch=1, rows=2, columns=70)
def test_it_is_the_transpose(target: str, batch: int, rows: int, columns: int) -> None:
    """Sizes around whole and partial vectors, for 16 and fewer lanes; few rows are interleaved."""
    shapes = ((batch, rows, columns), (batch, columns, rows))
    lanes = vector_unit(parse_target(target)).lanes
    kernel = build({"transpose": transpose_kernel("transpose", batch, rows, columns, lanes, shapes)}, target)
    x, y = torch.randn(shapes[0]), torch.full(shapes[1], float("nan"))
    kernel["transpose"](x, y)
    assert torch.equal(y, x.transpose(1, 2))
