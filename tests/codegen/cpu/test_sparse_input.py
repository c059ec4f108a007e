"""Matrix times vector that leaves out filters of zero inputs: the same numbers as if it didn't."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.codegen.cpu.kernels.dense import choose_dense, pack_dense
from haste_compiler.codegen.cpu.kernels.sparse_input import sparse_input_kernel, sparse_input_tiling
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.cpu.tiling import ConvTiling
from haste_compiler.codegen.target import parse_target
from haste_compiler.graph.geometry import ConvGeometry
from tests.codegen.examples import ConvExample, conv_examples, several
from tests.codegen.kernels import Arguments, ConvCase, assert_near, build, finish, nhwc, run_conv2d


def matrix(inputs: int, outputs: int) -> ConvGeometry:
    """A linear layer of one row."""
    return ConvGeometry(inputs, outputs, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (1, 1), (1, 1))


def run_sparse(case: ConvCase, target: str, threads: int = 1) -> Tensor:
    """The output of the kernel, (1, K, 1, 1)."""
    tiling = choose_dense(case.geometry, 1, vector_unit(parse_target(target)), threads, 0)
    assert isinstance(tiling, ConvTiling)
    residual, activation = case.residual is not None, case.activation
    kernel = sparse_input_kernel("product", case.geometry, tiling, residual=residual, activation=activation)
    arguments = Arguments()
    bias = None if case.bias is None else case.bias.numpy()
    arguments.read(nhwc(case.x), *pack_dense(case.weight.numpy(), bias, case.geometry, tiling))
    return finish(case, arguments, build({"product": kernel}, target)["product"])


@dataclass(frozen=True)
class SparseExample(ConvExample):
    """``zeros``: the share of inputs that are zero, some of them negative zeros."""

    zeros: float = 0.5

    def case(self, x: Tensor | None = None) -> ConvCase:
        case = super().case(x)
        left_out = torch.rand(case.x.shape) < self.zeros
        case.x[left_out] = torch.where(torch.rand(case.x.shape) < 0.5, 0.0, -0.0)[left_out]
        return case


sizes = st.builds(matrix, st.integers(1, 70), st.integers(1, 300))
shares = st.sampled_from((0.0, 0.3, 0.375, 0.4, 0.6, 0.9, 1.0))


examples = conv_examples(SparseExample, sizes, images=1, zeros=shares)


@settings(max_examples=4)
@given(several(examples, 3))
def test_product(examples: list[SparseExample]) -> None:
    for example in examples:
        check(example)


@pytest.mark.slow
@settings(max_examples=100)
@given(examples)
def test_product_more(example: SparseExample) -> None:
    check(example)


def check(example: SparseExample) -> None:
    case = example.case()
    actual = run_sparse(case, example.target, example.threads)
    assert_near(actual, case.expected())
    # In the same order: the plain kernel's sums, to the bit.
    assert torch.equal(actual, run_conv2d(case, example.target, example.threads))


def test_nan_and_infinity_go_where_they_go_in_pytorch() -> None:
    example = SparseExample(matrix(20, 40), 1, activation="relu")
    for value in (torch.nan, torch.inf, -torch.inf):
        case = example.case()
        case.x[0, 3] = value
        expected = case.expected().float()
        torch.testing.assert_close(run_sparse(case, "llvm"), expected, rtol=1e-4, atol=1e-4, equal_nan=True)


class Classifier(nn.Module):
    """A linear layer behind a ReLU, large enough to be read sparsely."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(600, 500)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.relu()).relu()


@pytest.mark.parametrize("images", [1, 3])
def test_in_a_network(images: int) -> None:
    model, x = Classifier().eval(), torch.randn(images, 600)
    compiled = haste_compiler.compile(model, (x,), config=HasteConfig(enabled=False))
    torch.testing.assert_close(compiled(x), model(x))


def test_infinite_weights_make_zero_inputs_nan() -> None:
    model, x = Classifier().eval(), torch.randn(1, 600)
    x[0, 7] = -1
    model.linear.weight[3, 7] = torch.inf
    compiled = haste_compiler.compile(model, (x,), config=HasteConfig(enabled=False))
    assert compiled(x)[0, 3].isnan()
    torch.testing.assert_close(compiled(x), model(x), equal_nan=True)


def test_where_it_is_used() -> None:
    """Not for several pixels, which would need the filters of all their inputs, nor for what is read in no time."""
    unit = vector_unit(parse_target("llvm"))

    def used(geometry: ConvGeometry, batch: int = 1) -> bool:
        weight = np.zeros((geometry.out_channels, geometry.in_channels, *geometry.kernel), np.float32)
        tiling = choose_dense(geometry, batch, unit, 1, 0)
        return sparse_input_tiling(geometry, batch, tiling, weight) is not None

    assert used(matrix(600, 500))
    assert not used(matrix(600, 500), batch=2)
    assert not used(matrix(60, 50))
    assert not used(ConvGeometry(600, 500, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (1, 2), (1, 1)))
    assert not used(ConvGeometry(200, 200, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (1, 1), (1, 1)))
