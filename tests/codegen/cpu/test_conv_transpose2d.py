"""Transposed convolutions: kernels between guards against PyTorch in double precision, then networks."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.codegen.cpu.kernels.conv_transpose2d import choose_phased, conv_transpose2d_kernel, pack_phased
from haste_compiler.codegen.cpu.kernels.depthwise_transposed import (
    depthwise_transposed_kernel,
    pack_depthwise_transposed,
)
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from haste_compiler.codegen.transposed import Phased
from haste_compiler.errors import InputError
from haste_compiler.graph.transposed import TransposedGeometry, transposed_geometry
from haste_compiler.ops.conv_transpose2d import conv_transpose2d
from haste_compiler.runtime.compiled import CompiledModule
from tests.codegen.kernels import Arguments, assert_near, build, nchw, nhwc, targets
from tests.codegen.strategies import ACTIVATIONS
from tests.passes.checking import settled

DENSE = HasteConfig(enabled=False)


@dataclass(frozen=True)
class Example:
    """A transposed convolution, and how it is compiled."""

    geometry: TransposedGeometry
    batch: int = 2
    bias: bool = True
    residual: bool = False
    activation: str = "none"
    target: str = "llvm"
    threads: int = 1
    seed: int = 0


def example(channels: tuple[int, int], size: tuple[int, int], window: str, groups: int = 1) -> Example:
    """``window`` is kernel, stride, padding, output padding and dilation, a digit each."""
    kernel, stride, padding, output_padding, dilation = ([int(digit)] * 2 for digit in window)
    numbers = (kernel, stride, padding, output_padding, dilation, groups)
    return Example(transposed_geometry(channels[0], size, numbers, channels[1] // groups), residual=True)


# The usual ones, joined and not, evenly and cut; uneven phases; phases without taps; crops; groups; depthwise.
CORNERS = [
    example((16, 24), (5, 7), "22001"),
    example((16, 1), (5, 7), "22001"),
    example((8, 3), (9, 9), "42101"),
    example((7, 33), (4, 4), "42101"),
    example((8, 16), (6, 5), "32111"),
    example((8, 16), (6, 5), "32101"),
    example((3, 5), (3, 4), "13021"),
    example((3, 5), (6, 6), "31301"),
    example((3, 5), (5, 6), "52402"),
    example((3, 4), (1, 1), "44101"),
    example((4, 1), (5, 6), "93401"),
    example((6, 4), (5, 5), "32111", 2),
    example((35, 35), (5, 6), "22001", 35),
    example((9, 9), (5, 7), "42101", 9),
    example((9, 9), (2, 3), "32201", 9),
]


@pytest.mark.parametrize("number", range(len(CORNERS)))
def test_corners(number: int) -> None:
    target = targets()[number % len(targets())]
    check(Example(CORNERS[number].geometry, residual=True, activation="relu", target=target))


def test_a_long_activation_of_cut_phases() -> None:
    check(Example(CORNERS[2].geometry, activation="tanh"))


@st.composite
def geometries(draw: st.DrawFn, channels: int = 12, side: int = 8) -> TransposedGeometry:
    """Transposed convolutions of every kind, one in four depthwise."""

    def pair(low: int, high: int) -> list[int]:
        return [draw(st.integers(low, high)), draw(st.integers(low, high))]

    depthwise = draw(st.sampled_from((False, False, False, True)))
    groups = draw(st.integers(2, 40)) if depthwise else draw(st.sampled_from((1, 1, 1, 2, 3)))
    kernel, stride, padding, dilation = pair(1, 5), pair(1, 4), pair(0, 4), pair(1, 3)
    output_padding = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
    numbers = (kernel, stride, padding, output_padding, dilation, groups)
    try:
        most = 1 if depthwise else channels
        filters = draw(st.integers(1, most))
        return transposed_geometry(groups * draw(st.integers(1, most)), pair(1, side), numbers, filters)
    except InputError:
        assume(False)
        raise


EXAMPLES = st.builds(
    Example,
    geometry=geometries(),
    batch=st.integers(1, 3),
    bias=st.booleans(),
    residual=st.booleans(),
    activation=st.sampled_from(ACTIVATIONS),
    target=st.sampled_from(targets()),
    threads=st.sampled_from((1, 2)),
    seed=st.integers(0, 2**16),
)


@settings(max_examples=4)
@given(st.lists(EXAMPLES, min_size=3, max_size=3, unique=True))
def test_kernels(examples: list[Example]) -> None:
    for each in examples:
        check(each)


@pytest.mark.slow
@settings(max_examples=500)
@given(EXAMPLES)
def test_kernels_more(each: Example) -> None:
    check(each)


def check(each: Example, x: Tensor | None = None) -> None:
    torch.manual_seed(each.seed)
    geometry = each.geometry
    shape = (each.batch, geometry.out_channels, *geometry.output_size)
    if x is None:
        x = torch.randn(each.batch, geometry.in_channels, *geometry.input_size)
    weight = torch.randn(geometry.in_channels, geometry.out_channels // geometry.groups, *geometry.kernel)
    bias = torch.randn(geometry.out_channels) if each.bias else None
    residual = torch.randn(shape) if each.residual else None
    unit, arguments = vector_unit(parse_target(each.target)), Arguments()
    numpy_bias = None if bias is None else bias.numpy()
    epilogue: dict[str, Any] = {"residual": each.residual, "activation": each.activation}
    if geometry.is_depthwise:
        phased = Phased(geometry, joined=False)
        kernel = depthwise_transposed_kernel("conv", phased, each.batch, unit, each.threads, **epilogue)
        arguments.read(nhwc(x), *pack_depthwise_transposed(weight.numpy(), numpy_bias, phased))
    else:
        phased, tiling = choose_phased(geometry, each.batch, unit, each.threads)
        kernel = conv_transpose2d_kernel("conv", phased, each.batch, tiling, **epilogue)
        arguments.read(nhwc(x), *pack_phased(weight.numpy(), numpy_bias, phased, tiling))
    if residual is not None:
        arguments.read(nhwc(residual))
    y = arguments.write((shape[0], *shape[2:], shape[1]))
    arguments.call(build({"conv": kernel}, each.target)["conv"])
    numbers = (geometry.stride, geometry.padding, geometry.output_padding, geometry.dilation, geometry.groups)
    tensors = (None if value is None else value.double() for value in (bias, residual))
    wanted = conv_transpose2d(x.double(), weight.double(), *tensors, *numbers, each.activation)
    if wanted.isfinite().all():
        assert_near(nchw(y), wanted)
    else:
        torch.testing.assert_close(nchw(y), wanted.float(), rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("corner", [CORNERS[1], CORNERS[2], CORNERS[4]])
def test_nan_and_infinity_go_where_they_go_in_pytorch(corner: Example) -> None:
    x = torch.randn(2, corner.geometry.in_channels, *corner.geometry.input_size)
    x[0, 3, 2, 2], x[1, 5, 4, 4], x[1, 7, 0, 0] = torch.nan, torch.inf, -torch.inf
    check(corner, x)


def network(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return settled(nn.Sequential(*layers))


def compiled(model: nn.Module, x: Tensor, threads: int = 1, dynamic: bool = False) -> CompiledModule:
    return haste_compiler.compile(model, (x,), config=DENSE, threads=threads, dynamic=dynamic)


def symbols(module: CompiledModule) -> set[str]:
    return {symbol.rstrip("0123456789_") for symbol, _ in module._parts()[0].executable.kernels}


def assert_same(model: nn.Module, x: Tensor, *, threads: int = 1) -> CompiledModule:
    module = compiled(model, x, threads)
    assert_near(module(x), model(x))
    return module


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = self.block(3, 8), self.block(8, 16)
        self.up = nn.Sequential(nn.ConvTranspose2d(16, 8, 2, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.last, self.head = self.block(16, 8), nn.Conv2d(8, 2, 1)

    @staticmethod
    def block(before: int, after: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        y = self.up(self.down(torch.max_pool2d(skip, 2)))
        return self.head(self.last(torch.cat([skip, y], 1)))


def generator() -> nn.Module:
    return network(
        nn.ConvTranspose2d(20, 32, 4, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(True),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(True),
        nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False),
        nn.Tanh(),
    )


def test_a_unet() -> None:
    assert "conv_transpose2d" in symbols(assert_same(settled(UNet()), torch.randn(2, 3, 16, 20)))


def test_a_generator() -> None:
    """Its first layer, of an image of one pixel, is a plain product."""
    module = assert_same(generator(), torch.randn(2, 20, 1, 1))
    assert {"conv2d", "conv_transpose2d"} <= symbols(module)
    assert [layer.eligible for layer in module.layers] == [False] * 3


def test_a_decoder_of_styles() -> None:
    model = network(
        nn.ConvTranspose2d(16, 12, 3, 2, 1, 1), nn.InstanceNorm2d(12), nn.ReLU(), nn.ConvTranspose2d(12, 3, 3, 1, 1)
    )
    assert {"conv2d", "conv_transpose2d"} <= symbols(assert_same(model, torch.randn(1, 16, 9, 8)))


def test_one_phase_may_be_computed_by_winograds_algorithm() -> None:
    model, x = network(nn.ConvTranspose2d(64, 64, 3, 1, 1)), torch.randn(1, 64, 16, 16)
    fast = haste_compiler.compile(model, (x,), config=DENSE, threads=1)
    plain = haste_compiler.compile(model, (x,), config=DENSE.replace(winograd=0), threads=1)
    assert_near(fast(x), model(x), 1e-5)
    assert_near(plain(x), model(x))
    assert not torch.equal(fast(x), plain(x))


def test_an_image_without_batch() -> None:
    assert_same(network(nn.ConvTranspose2d(4, 6, 3, 2)), torch.randn(4, 7, 8))


def test_a_batch_of_any_size() -> None:
    model = generator()
    module = compiled(model, torch.randn(2, 20, 1, 1), dynamic=True)
    for count in (1, 2, 5):
        x = torch.randn(count, 20, 1, 1)
        assert_near(module(x), model(x))


def test_threads_change_no_bit() -> None:
    model, x = network(nn.ConvTranspose2d(32, 40, 4, 2, 1)), torch.randn(1, 32, 12, 12)
    assert torch.equal(assert_same(model, x)(x), assert_same(model, x, threads=2)(x))
