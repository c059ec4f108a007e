"""A tile that takes a neighbour's rows, or a tail that is left out, garbles what attention pays attention to."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haste_compiler.codegen.cpu.kernels.matmul import matmul_kernel
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from tests.codegen.kernels import assert_near, on_x86, run_kernel, targets


@on_x86
@pytest.mark.parametrize("target", targets())
@settings(max_examples=15, deadline=None)
@given(
    leading=st.lists(st.integers(1, 4), max_size=2),
    sizes=st.tuples(st.integers(1, 80), st.integers(1, 40), st.integers(1, 150)),
)
def test_it_is_the_product(target: str, leading: list[int], sizes: tuple[int, int, int]) -> None:
    """Around whole and partial tiles, of rows and of columns."""
    rows, inner, columns = sizes
    kernel = matmul_kernel("product", leading, rows, inner, columns, vector_unit(parse_target(target)))
    a, b = torch.randn(*leading, rows, inner), torch.randn(*leading, inner, columns)
    assert_near(run_kernel(kernel, target, (*leading, rows, columns), a, b), a.double() @ b.double())


def test_a_product_of_several_tasks() -> None:
    a, b = torch.randn(3, 197, 64), torch.randn(3, 64, 197)
    kernel = matmul_kernel("product", (3,), 197, 64, 197, vector_unit(parse_target("llvm")))
    assert_near(run_kernel(kernel, "llvm", (3, 197, 197), a, b), a.double() @ b.double())
