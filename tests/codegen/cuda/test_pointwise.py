"""The CUDA kernels that are bound by memory, emulated, against PyTorch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.codegen.cuda.kernels.pointwise import (
    activation_kernel,
    depthwise_kernel,
    pack_depthwise_filters,
    pooling_kernel,
    transpose_kernel,
)
from haste_compiler.codegen.pooling import Pooling
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.ops.activation import apply_activation
from tests.codegen.cpu.test_pooling import expected, poolings
from tests.codegen.cuda.kernels import CudaArguments, build, call
from tests.codegen.kernels import conv_case, nchw, nhwc
from tests.codegen.strategies import ACTIVATIONS, geometries


def check_depthwise(several: list[ConvGeometry]) -> None:
    cases = [
        conv_case(geometry, 2, bias=number % 2 == 0, residual=number % 3 == 0, activation=ACTIVATIONS[number])
        for number, geometry in enumerate(several)
    ]
    built = build(
        {
            f"conv_{number}": depthwise_kernel(
                f"conv_{number}",
                case.geometry,
                case.batch,
                residual=case.residual is not None,
                activation=case.activation,
            )
            for number, case in enumerate(cases)
        }
    )
    for number, case in enumerate(cases):
        geometry, arguments = case.geometry, CudaArguments()
        bias = torch.zeros(geometry.out_channels) if case.bias is None else case.bias
        arguments.read(nhwc(case.x), pack_depthwise_filters(case.weight.numpy()), bias)
        if case.residual is not None:
            arguments.read(nhwc(case.residual))
        y = arguments.write(case.output_shape())
        call(arguments, built[f"conv_{number}"], y)
        torch.testing.assert_close(nchw(y), case.expected().float(), rtol=1e-4, atol=1e-5)


@settings(max_examples=2)
@given(st.lists(geometries(side=12, depthwise=True), min_size=4, max_size=4))
def test_depthwise(several: list[ConvGeometry]) -> None:
    check_depthwise(several)


@settings(max_examples=3)
@given(st.lists(poolings(), min_size=5, max_size=5))
def test_pooling(several: list[tuple[Pooling, Tensor]]) -> None:
    check_pooling(several)


def test_means_of_whole_images() -> None:
    check_pooling([(Pooling("adaptive_avg", (9, 11), (1, 1)), torch.randn(2, channels, 9, 11)) for channels in (1, 70)])


def check_pooling(several: list[tuple[Pooling, Tensor]]) -> None:
    built = build(
        {
            f"pool_{number}": pooling_kernel(f"pool_{number}", pooling, x.shape[0], x.shape[1])
            for number, (pooling, x) in enumerate(several)
        }
    )
    for number, (pooling, x) in enumerate(several):
        arguments = CudaArguments()
        arguments.read(nhwc(x))
        y = arguments.write((x.shape[0], *pooling.output_size, x.shape[1]))
        call(arguments, built[f"pool_{number}"], y)
        torch.testing.assert_close(nchw(y), expected(pooling, x), rtol=1e-5, atol=1e-6, equal_nan=True)


def test_activations_keep_nan_and_infinity() -> None:
    x = torch.cat([torch.linspace(-30, 30, 301), torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, 1e-8])])
    names = {f"act_{number}": name for number, name in enumerate(ACTIVATIONS)}
    built = build({symbol: activation_kernel(symbol, x.shape, name) for symbol, name in names.items()})
    for symbol, name in names.items():
        arguments = CudaArguments()
        arguments.read(x)
        y = arguments.write(x.shape)
        call(arguments, built[symbol], y)
        # What PyTorch makes of infinity in gelu depends on whether it takes vectors.
        same = x.isfinite() | x.isnan() if name == "gelu" else torch.ones_like(x, dtype=torch.bool)
        wanted = apply_activation(x, name)
        torch.testing.assert_close(y[same], wanted[same], rtol=1e-5, atol=1e-6, equal_nan=True, msg=name)


@pytest.mark.parametrize("shape", [(2, 3, 40, 35), (1, 64, 8, 8), (3, 1, 1, 5)])
def test_transposition(shape: tuple[int, int, int, int]) -> None:
    n, c, h, w = shape
    x = torch.randn(shape)
    back, forth = ((n, h, w, c), shape), (shape, (n, h, w, c))
    built = build(
        {"to": transpose_kernel("to", n, c, h * w, forth), "from": transpose_kernel("from", n, h * w, c, back)}
    )
    arguments = CudaArguments()
    arguments.read(x)
    y = arguments.write((n, h, w, c))
    call(arguments, built["to"], y)
    assert torch.equal(y, nhwc(x))
    arguments = CudaArguments()
    arguments.read(y)
    z = arguments.write(shape)
    call(arguments, built["from"], z)
    assert torch.equal(z, x)
