"""Winograd's algorithm against PyTorch in double precision, and when it is chosen."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haste_compiler.codegen.cpu.kernels.conv2d import conv_work
from haste_compiler.codegen.cpu.kernels.dense import choose_dense
from haste_compiler.codegen.cpu.target import VectorUnit, vector_unit
from haste_compiler.codegen.cpu.tiling import ConvTiling, WinogradTiling, choose_tiling
from haste_compiler.codegen.cpu.winograd_tiling import winograd_tilings
from haste_compiler.codegen.target import parse_target
from haste_compiler.graph import winograd
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import SIZES
from tests.codegen.examples import ConvExample, conv_examples, several
from tests.codegen.kernels import assert_near, conv_case, run_dense
from tests.cost.geometries import square

UNIT = VectorUnit(16, 32)


def tilings(geometry: ConvGeometry, batch: int, size: int, target: str, threads: int = 1) -> list[WinogradTiling]:
    unit = vector_unit(parse_target(target))
    direct = choose_tiling(conv_work(geometry, batch), unit, threads)
    return [tiling for _, tiling in winograd_tilings(geometry, batch, size, unit, threads, direct)]


@dataclass(frozen=True)
class Example(ConvExample):
    """``choice`` picks one of the tilings that there are of tiles of ``size``, if the output is as large."""

    size: int = 4
    choice: int = 0

    def check(self) -> None:
        case = self.case()
        size = self.size if min(self.geometry.output_size) >= self.size else min(SIZES)
        found = tilings(self.geometry, self.batch, size, self.target, self.threads)
        actual = run_dense(case, self.target, found[self.choice % len(found)])
        assert_near(actual, case.expected(), 1e-5)


@st.composite
def convolutions(draw: st.DrawFn, channels: int, filters: int, side: int) -> ConvGeometry:
    """3×3 convolutions whose output is no smaller than the smallest tile."""
    top, bottom, left, right = (draw(st.integers(0, 2)) for _ in range(4))
    height, width = (draw(st.integers(min(SIZES), side)) for _ in range(2))
    inputs = (max(1, height + 2 - top - bottom), max(1, width + 2 - left - right))
    counts = draw(st.integers(1, channels)), draw(st.integers(1, filters))
    return ConvGeometry(*counts, (3, 3), (1, 1), (top, bottom, left, right), (1, 1), 1, inputs, (8, 8))


def examples(channels: int, filters: int, side: int) -> st.SearchStrategy[Example]:
    geometry = convolutions(channels, filters, side)
    return conv_examples(Example, geometry, 4, size=st.sampled_from(SIZES), choice=st.integers(0, 20))


@settings(max_examples=2)
@given(several(examples(40, 50, 14), 4))
def test_generated(examples: list[Example]) -> None:
    for example in examples:
        example.check()


def test_without_padding() -> None:
    Example(ConvGeometry(18, 20, (3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1, (9, 12), (8, 8)), residual=True).check()


@pytest.mark.slow
@settings(max_examples=300)
@given(examples(100, 140, 30))
def test_generated_more(example: Example) -> None:
    example.check()


@pytest.mark.parametrize("size", SIZES)
def test_nan_and_infinity_go_where_they_go_in_pytorch(size: int) -> None:
    geometry = ConvGeometry(18, 18, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (9, 8), (8, 8))
    for value in (torch.nan, torch.inf, 3e38):
        case = conv_case(geometry, 2, bias=True, residual=True, activation="none")
        case.x[0, 3, 2, 2] = value
        actual = run_dense(case, "llvm", tilings(geometry, 2, size, "llvm")[0])
        torch.testing.assert_close(actual, case.expected().float(), rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("size", [2, 4])
def test_transforms_compute_a_convolution(size: int) -> None:
    generator = np.random.default_rng(0)
    x, f = generator.standard_normal((size + 2, size + 2)), generator.standard_normal((3, 3))
    inputs, filters, outputs = (np.array(table[size]) for table in (winograd.INPUT, winograd.FILTER, winograd.OUTPUT))
    y = outputs @ ((filters @ f @ filters.T) * (inputs @ x @ inputs.T)) @ outputs.T
    wanted = [[(x[i : i + 3, j : j + 3] * f).sum() for j in range(size)] for i in range(size)]
    np.testing.assert_allclose(y, wanted, atol=1e-12)


def test_it_is_chosen_where_it_saves_and_not_where_filters_would_be_read() -> None:
    chosen = choose_dense(square(64, 64, 56, 8), 1, UNIT, 1, 4)
    assert isinstance(chosen, WinogradTiling) and chosen.size == 4
    smaller = choose_dense(square(64, 64, 56, 8), 1, UNIT, 1, 2)
    assert isinstance(smaller, WinogradTiling) and smaller.size == 2
    assert isinstance(choose_dense(square(64, 64, 56, 8), 1, UNIT, 1, 0), ConvTiling)
    # Four times as many bytes of filters for sixteen pixels of output.
    assert isinstance(choose_dense(square(512, 512, 4, 4), 1, UNIT, 1, 4), ConvTiling)


@pytest.mark.parametrize(
    "geometry",
    [
        ConvGeometry(64, 64, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 1, (56, 56), (8, 8)),
        ConvGeometry(64, 64, (5, 5), (1, 1), (2, 2, 2, 2), (1, 1), 1, (56, 56), (8, 8)),
        square(64, 64, 1, 1),
        ConvGeometry(64, 64, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 1, (56, 56), (8, 8)),
        ConvGeometry(64, 64, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 2, (56, 56), (8, 8)),
    ],
)
def test_other_convolutions_are_left_alone(geometry: ConvGeometry) -> None:
    assert isinstance(choose_dense(geometry, 1, UNIT, 1, 4), ConvTiling)


@pytest.mark.parametrize("side", [56, 224, 1000, 4000])
@pytest.mark.parametrize("channels", [32, 64])
def test_a_thread_keeps_less_than_the_image(channels: int, side: int) -> None:
    geometry = square(channels, channels, side, 1)
    for tiling in tilings(geometry, 1, 4, "llvm -mcpu=skylake-avx512", threads=2):
        tiles = tiling.block * tiling.grid(geometry)[1]
        kept = (tiling.size + 2) ** 2 * tiles * (channels + tiling.tile.channels) * 4
        assert kept < max(48 << 20, 4 * channels * side**2 / 20)
