"""The CUDA HASTE kernels, emulated, against the operator in plain PyTorch: decisions, output, counts and bound."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.codegen.cuda.precision import Precision
from haste_compiler.codegen.cuda.tiling import TILES, GemmTile
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.reference.convolution import haste_conv2d
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.settings import Settings
from tests.codegen.cuda.kernels import CudaHasteKernels
from tests.codegen.kernels import conv_case
from tests.codegen.strategies import geometries
from tests.methods.haste.networks import redundant_images
from tests.methods.haste.test_kernels import Example, Ran, haste_examples

IMAGE = ConvGeometry(48, 40, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (14, 13), (64, 64))
"""The whole image is one patch, as the compiler cuts it for a card."""


def run(example: Example, x: Tensor | None = None, tile: GemmTile = TILES[3], precision: Precision = "fp32") -> Ran:
    geometry = example.geometry
    if x is None:
        x = redundant_images(example.batch, geometry.in_channels, *geometry.input_size, seed=example.seed)
    case = example.case(x)
    planes = draw_hyperplanes(geometry.window_pixels, example.seed, "layer")
    kernels = CudaHasteKernels(case, planes, example.merge, example.skip, tile, precision)
    oracle = haste_conv2d(
        x, case.weight, case.bias, planes, example.settings, geometry,
        merge=example.merge, skip=example.skip, residual=case.residual, activation=example.activation,
    )  # fmt: skip
    return Ran(example, x, case.weight, planes, kernels.run(example.settings), oracle)


CORNERS = [
    Example(ConvGeometry(1, 1, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (1, 1), (8, 8))),
    # Rows and columns after the last one read belong to no window; conv groups; patches cut at the edges.
    Example(ConvGeometry(12, 8, (2, 3), (3, 2), (0, 1, 0, 1), (1, 1), 2, (11, 12), (2, 3))),
    # More channels than threads, and than lanes.
    Example(
        ConvGeometry(600, 8, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (4, 4), (8, 8)), settings=Settings(6, 0.5, 0.2)
    ),
    Example(replace(IMAGE, patch=(5, 64)), settings=Settings(14, math.inf, 0.2), merge="mean", skip="none"),
    Example(IMAGE, 3, settings=Settings(4, 0.5, 0.2), residual=True, activation="silu"),
]


@pytest.mark.parametrize("example", CORNERS)
def test_corners(example: Example) -> None:
    run(example).check()


def test_every_kind_of_channel_is_seen() -> None:
    ran = run(Example(replace(IMAGE, patch=(7, 7)), 3, settings=Settings(4, 0.5, 0.2)))
    assert ran.check() <= 1
    singles, groups, members, zeros, flats, merges = ran.mine.counts.flatten(0, 3).sum(dim=0).tolist()
    assert min(singles, groups, zeros, flats) > 0 and members > 2 * groups
    # Some groups were formed again without a member.
    assert merges > members


@pytest.mark.parametrize("broken", [torch.nan, 1e18])
def test_a_patch_that_is_not_finite_is_computed_exactly(broken: float) -> None:
    x = redundant_images(2, 48, 14, 13)
    x[0, 7, 2, 2] = broken
    ran = run(Example(IMAGE, settings=Settings(3, math.inf, 0.3)), x)
    assert (ran.mine.slot[0, 0, 0] == torch.arange(48)).all()
    assert float(ran.mine.bound[0, 0, 0, 0]) == 0
    torch.testing.assert_close(ran.mine.y, ran.oracle.output, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert (ran.mine.slot[1] == ran.oracle.groups.slot[1]).all()


def test_images_of_nothing_cost_nothing() -> None:
    ran = run(Example(IMAGE, settings=Settings(8, 0.4, 0.2)), torch.zeros(2, 48, 14, 13))
    ran.check()
    assert (ran.mine.slot == -1).all() and (ran.mine.bound == 0).all()


@pytest.mark.parametrize(("precision", "error"), [("tf32", 1e-3), ("bf16", 1e-2)])
def test_tensor_cores_convolve_what_float32_has_grouped(precision: Precision, error: float) -> None:
    ran = run(Example(IMAGE, settings=Settings(5, 0.5, 0.2)), tile=TILES[5], precision=precision)
    assert (ran.mine.slot == ran.oracle.groups.slot).all()
    difference = (ran.mine.y - ran.oracle.output).norm() / ran.oracle.output.norm()
    assert 1e-5 < difference < error


def test_settings_are_read_at_every_call() -> None:
    x = redundant_images(2, 48, 14, 13)
    case = conv_case(IMAGE, 2, x, bias=True, residual=False, activation="none")
    planes = draw_hyperplanes(IMAGE.window_pixels, 0, "layer")
    kernels = CudaHasteKernels(case, planes, "projection", "flat", TILES[3])
    seen = set()
    for now in (Settings(1, math.inf, 0.5), Settings(30, 0.0, 0.0), Settings(5, 0.4, 0.2)):
        mine = kernels.run(now)
        oracle = haste_conv2d(x, case.weight, case.bias, planes, now, IMAGE)
        Ran(Example(IMAGE, settings=now), x, case.weight, planes, mine, oracle).check()
        seen.add(tuple(mine.counts.flatten(0, 3).sum(dim=0).tolist()))
    assert len(seen) == 3


examples = haste_examples(geometries(channels=24, filters=24, side=12), 3)


@settings(max_examples=3)
@given(examples, st.sampled_from(TILES))
def test_generated_convolutions(example: Example, tile: GemmTile) -> None:
    run(example, tile=tile).check()


@pytest.mark.slow
@settings(max_examples=150)
@given(examples, st.sampled_from(TILES))
def test_generated_convolutions_more(example: Example, tile: GemmTile) -> None:
    run(example, tile=tile).check()
