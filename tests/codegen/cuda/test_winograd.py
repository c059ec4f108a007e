"""Winograd's algorithm in CUDA, emulated, against PyTorch in double precision, and when it is chosen."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.codegen.cuda import machine
from haste_compiler.codegen.cuda.kernels.conv2d import choose_tiling, conv2d_kernel, pack_filters
from haste_compiler.codegen.cuda.kernels.winograd import (
    CardWinograd,
    choose_winograd,
    pack_plain_filters,
    winograd_filters,
    winograd_input_kernel,
    winograd_output_kernel,
)
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import SIZES
from tests.codegen.cuda import emulator
from tests.codegen.cuda.kernels import PROCESSORS, CudaArguments, build, call
from tests.codegen.kernels import ConvCase, assert_near, conv_case, nchw, nhwc
from tests.cost.geometries import square

H100 = 132


def run(case: ConvCase, size: int) -> Tensor:
    """The three launches, (N, K, OH, OW)."""
    winograd = CardWinograd(replace(case.geometry, patch=(1, 1)), case.batch, size)
    products, shape = winograd.products, case.output_shape()
    _, tiling = winograd.tiling(PROCESSORS)
    code = build(
        {
            "input": winograd_input_kernel("input", winograd),
            "products": conv2d_kernel("products", products, winograd.tiles, tiling, "fp32", sums=True),
            "output": winograd_output_kernel(
                "output", winograd, residual=case.residual is not None, activation=case.activation
            ),
        }
    )
    weight = case.weight.numpy()
    step = CudaArguments()
    step.read(nhwc(case.x))
    transformed = step.write((winograd.tiles, 1, 1, products.in_channels))
    call(step, code["input"], transformed)
    step = CudaArguments()
    filters = pack_filters(winograd_filters(weight, winograd), products, tiling.tile, "fp32")
    step.read(transformed, filters)
    sums = step.write((1, winograd.tiles, products.out_channels))
    call(step, code["products"], sums)
    step = CudaArguments()
    step.read(sums, nhwc(case.x), pack_plain_filters(weight))
    step.read(torch.zeros(shape[3]) if case.bias is None else case.bias)
    if case.residual is not None:
        step.read(nhwc(case.residual))
    y = step.write(shape)
    call(step, code["output"], y)
    return nchw(y)


def geometry(channels: int, filters: int, height: int, width: int, padding: tuple[int, ...]) -> ConvGeometry:
    assert len(padding) == 4
    return ConvGeometry(channels, filters, (3, 3), (1, 1), padding, (1, 1), 1, (height, width), (8, 8))


@pytest.mark.parametrize("size", SIZES)
def test_corners(size: int) -> None:
    # Tiles that reach over the end; no padding; padding on one side; more filters than a tile has.
    for each in (
        geometry(8, 6, 9, 7, (1, 1, 1, 1)),
        geometry(4, 70, size + 2, size + 3, (0, 0, 0, 0)),
        geometry(20, 5, 6, 8, (2, 0, 0, 1)),
    ):
        case = conv_case(each, 2, bias=True, residual=True, activation="silu")
        assert_near(run(case, size), case.expected(), 1e-5)


@settings(max_examples=5)
@given(
    st.builds(
        geometry,
        st.sampled_from((4, 8, 12)),
        st.integers(1, 40),
        st.integers(3, 12),
        st.integers(3, 12),
        st.tuples(*[st.integers(0, 2)] * 4),
    ),
    st.integers(1, 3),
    st.sampled_from(SIZES),
)
def test_generated_convolutions(each: ConvGeometry, batch: int, size: int) -> None:
    assume(min(each.output_size) >= size)
    case = conv_case(each, batch, bias=False, residual=False, activation="none")
    assert_near(run(case, size), case.expected(), 1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 3e38])
def test_nan_and_infinity_go_where_they_go_in_pytorch(size: int, value: float) -> None:
    case = conv_case(geometry(8, 6, 9, 8, (1, 1, 1, 1)), 2, bias=True, residual=True, activation="none")
    case.x[0, 3, 2, 2] = value
    torch.testing.assert_close(run(case, size), case.expected().float(), rtol=1e-4, atol=1e-4, equal_nan=True)


def test_it_is_chosen_where_it_saves_more_products_than_its_transforms_take() -> None:
    def choice(each: ConvGeometry, batch: int, largest: int = 4) -> int | None:
        direct, _ = choose_tiling(each, batch, H100, "fp32")
        found = choose_winograd(each, batch, largest, H100, direct)
        return None if found is None else found.size

    assert choice(square(256, 256, 28, 7), 32) == 4
    assert choice(square(256, 256, 28, 7), 32, largest=2) == 2
    assert choice(square(256, 256, 28, 7), 32, largest=0) is None
    # More memory than the images are worth; few products; as many filters to read; another stride.
    assert choice(square(64, 64, 224, 7), 256) is None
    assert choice(square(64, 64, 14, 7), 1) is None
    assert choice(square(512, 512, 7, 7), 1) is None
    assert choice(replace(square(256, 256, 28, 7), stride=(2, 2)), 32) is None


def test_a_network_with_it_computes_what_pytorch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    emulator.require()
    # A card so small that few products are many.
    monkeypatch.setattr(machine, "processors", lambda target: 1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.SiLU(), nn.Conv2d(64, 64, 3, padding=1)).eval()
    x = torch.randn(4, 3, 31, 32)

    def compiled(largest: int) -> tuple[haste_compiler.CompiledModule, set[str]]:
        config = HasteConfig(enabled=False, winograd=largest)
        made = haste_compiler.compile(model, (x,), target="cuda", config=config, precision="fp32")
        (specialized,) = made._made.values()
        return made, {symbol.rpartition("_")[0] for symbol, _ in specialized.executable.kernels}

    kernels = {"winograd_input", "winograd_products", "winograd_output"}
    made, symbols = compiled(4)
    assert kernels <= symbols and "conv2d" in symbols
    assert_near(made(x), model(x).double(), 1e-5)
    assert not kernels & compiled(0)[1]
