"""The HASTE kernels against the operator in plain PyTorch: decisions, output, counts and bound."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.reference.convolution import HasteResult, haste_conv2d
from haste_compiler.methods.haste.reference.grouping import filter_norms
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.reference.windows import extract_windows
from haste_compiler.methods.haste.settings import Settings
from tests.codegen.examples import ConvExample, conv_examples, several
from tests.codegen.kernels import HasteKernels, HasteOutput, conv_case, targets
from tests.codegen.near_ties import check_near_ties
from tests.codegen.strategies import geometries
from tests.methods.haste.networks import layer_of, redundant_images
from tests.methods.haste.reference import Layer

DEFAULT = Settings(6, math.inf, 0.2)


@dataclass(frozen=True)
class Example(ConvExample):
    """A HASTE convolution; ``kept``: images whose windows are kept between its kernels, None: of all."""

    merge: str = "projection"
    skip: str = "flat"
    settings: Settings = DEFAULT
    kept: int | None = None

    def layer(self) -> Layer:
        return layer_of(self.geometry, self.merge, self.skip, self.settings)


@dataclass
class Ran:
    """One example, run both ways."""

    example: Example
    x: Tensor
    weight: Tensor
    planes: Tensor
    mine: HasteOutput
    oracle: HasteResult

    def check(self) -> int:
        """Compare everything; return how many patches a near tie decided otherwise."""
        geometry = self.example.geometry
        assert self.mine.y.isfinite().all()
        differs = (self.mine.slot != self.oracle.groups.slot).any(dim=-1)
        norms = filter_norms(self.weight.double(), geometry.groups)
        check_near_ties(differs, self.x, norms, self.planes, self.example.layer(), "the kernel")
        same = ~differs
        for name, part in (("coeff", self.mine.coeff), ("offset", self.mine.offset)):
            torch.testing.assert_close(part[same], getattr(self.oracle.groups, name)[same], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(self.mine.counts[same].long(), self.oracle.counts[same], rtol=0, atol=0)

        (sh, sw), (height, width) = geometry.effective_patch, geometry.output_size
        pixels = same.repeat_interleave(sh, 1).repeat_interleave(sw, 2)[:, :height, :width].unsqueeze(1)
        error = ((self.mine.y - self.oracle.output) * pixels).norm()
        assert error <= 1e-4 * self.oracle.output.norm() + 1e-6, f"error {error} of {self.oracle.output.norm()}"

        # Where nothing is lost the bound is rounding alone: judge it by the size of what was read.
        size = (extract_windows(self.x, geometry).square().sum(dim=-1).sqrt() * norms).sum(dim=-1)
        bound = self.mine.bound.sum(dim=-1)
        slack = 1e-3 * math.sqrt(geometry.taps) * size + 1e-6
        assert ((bound - self.oracle.bound).abs() <= 1e-3 * self.oracle.bound + slack)[same].all()
        return int(differs.sum())


def run(example: Example, x: Tensor | None = None) -> Ran:
    geometry = example.geometry
    if x is None:
        x = redundant_images(example.batch, geometry.in_channels, *geometry.input_size, seed=example.seed)
    case = example.case(x)
    planes = draw_hyperplanes(geometry.window_pixels, example.seed, "layer")
    kernels = HasteKernels(
        case, planes, example.merge, example.skip, example.target, example.threads, kept=example.kept
    )
    mine = kernels.run(example.settings)
    oracle = haste_conv2d(
        x, case.weight, case.bias, planes, example.settings, geometry,
        merge=example.merge, skip=example.skip, residual=case.residual, activation=example.activation,
    )  # fmt: skip
    return Ran(example, x, case.weight, planes, mine, oracle)


def haste_examples(geometry: st.SearchStrategy[ConvGeometry], images: int = 5) -> st.SearchStrategy[Example]:
    planes = st.one_of(st.integers(1, 8), st.integers(9, 30))
    tolerances = st.sampled_from((math.inf, 0.0, 0.3, 0.6, 1.0))
    return conv_examples(
        Example,
        geometry,
        images,
        merge=st.sampled_from(("mean", "projection")),
        skip=st.sampled_from(("none", "zeros", "flat")),
        settings=st.builds(Settings, planes, tolerances, st.sampled_from((0.1, 0.2, 0.5))),
        kept=st.sampled_from((None, 0)),
    )


@settings(max_examples=3)
@given(several(haste_examples(geometries(channels=24, filters=24, side=12)), 4))
def test_kernels_equal_the_operator(examples: list[Example]) -> None:
    for example in examples:
        run(example).check()


@pytest.mark.slow
@settings(max_examples=400)
@given(haste_examples(geometries(channels=40, filters=70, side=20)))
def test_kernels_equal_the_operator_more(example: Example) -> None:
    run(example).check()


PLAIN = ConvGeometry(48, 40, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (14, 13), (5, 6))
CORNERS = [
    Example(ConvGeometry(1, 1, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (1, 1), (8, 8))),
    Example(ConvGeometry(16, 16, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (8, 8), (8, 8)), skip="none"),
    Example(ConvGeometry(16, 16, (1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 1, (9, 9), (4, 4))),
    Example(ConvGeometry(16, 33, (7, 7), (1, 1), (3, 3, 3, 3), (1, 1), 1, (3, 3), (8, 8))),
    # Rows and columns after the last one read belong to no window.
    Example(ConvGeometry(12, 8, (2, 3), (3, 2), (0, 1, 0, 1), (1, 1), 2, (11, 12), (2, 3))),
    Example(PLAIN, settings=Settings(30, 0.4, 0.2)),
    Example(PLAIN, merge="mean", settings=Settings(14, math.inf, 0.2), skip="none"),
    Example(PLAIN, settings=Settings(10, 0.0, 0.2), skip="zeros"),
]


@pytest.mark.parametrize("target", targets())
@pytest.mark.parametrize("example", CORNERS)
def test_corners(example: Example, target: str) -> None:
    run(replace(example, target=target)).check()


def test_every_kind_of_channel_is_seen_and_few_decisions_are_ties() -> None:
    ran = run(Example(PLAIN, 3, settings=Settings(4, 0.5, 0.2)))
    assert ran.check() <= 1
    singles, groups, members, zeros, flats, *_ = ran.mine.counts.flatten(0, 3).sum(dim=0).tolist()
    assert min(singles, groups, zeros, flats) > 0 and members > 2 * groups


@pytest.mark.parametrize("merge", ["mean", "projection"])
def test_all_channels_alike(merge: str) -> None:
    x = torch.randn(2, 1, 14, 13).expand(-1, 48, -1, -1).contiguous()
    ran = run(Example(PLAIN, merge=merge, skip="none", settings=Settings(8, math.inf, 0.2)), x)
    # Equal channels lie on their mean to the last bit or not, which decides every code alike or none.
    assert ran.mine.y.isfinite().all()
    assert (ran.mine.y - ran.oracle.output).norm() <= 1e-4 * ran.oracle.output.norm()


@pytest.mark.parametrize("skip", ["none", "zeros", "flat"])
def test_images_of_nothing(skip: str) -> None:
    ran = run(Example(PLAIN, skip=skip, settings=Settings(8, 0.4, 0.2)), torch.zeros(2, 48, 14, 13))
    ran.check()
    if skip != "none":
        assert (ran.mine.slot == -1).all() and (ran.mine.bound == 0).all()


def test_constant_channels_are_carried_exactly() -> None:
    x = torch.randn(48).view(1, 48, 1, 1).expand(2, -1, 14, 13).contiguous()
    ran = run(Example(PLAIN, settings=Settings(8, 0.4, 0.2)), x)
    ran.check()
    assert (ran.mine.counts[..., 4] == 48).all()
    exact = torch.conv2d(x.double(), ran.weight.double(), padding=1)
    torch.manual_seed(0)
    bias = conv_case(PLAIN, 2, x, bias=True, residual=False, activation="none").bias
    assert bias is not None
    error = (ran.mine.y - bias[:, None, None] - exact).norm() / exact.norm()
    assert error < 1e-5


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf, 1e18, 3e38])
def test_a_patch_that_is_not_finite_is_computed_exactly(broken: float) -> None:
    x = redundant_images(2, 48, 14, 13)
    x[0, 7, 2, 2] = broken
    ran = run(Example(PLAIN, settings=Settings(3, math.inf, 0.3)), x)
    assert (ran.mine.slot[0, 0, 0] == torch.arange(48)).all()
    assert ran.mine.counts[0, 0, 0, 0, 0] == 48 and ran.mine.counts[0, 0, 0, 0, 1:].count_nonzero() == 0
    assert float(ran.mine.bound[0, 0, 0, 0]) == float(ran.oracle.bound[0, 0, 0]) == 0
    torch.testing.assert_close(ran.mine.y, ran.oracle.output, rtol=1e-4, atol=1e-4, equal_nan=True)
    # The other patches are merged as ever.
    assert (ran.mine.slot[1] == ran.oracle.groups.slot[1]).all()
    assert (ran.mine.slot[1] != torch.arange(48)).any()


@pytest.mark.parametrize("skip", ["flat", "zeros", "none"])
def test_values_whose_squares_leave_float32(skip: str) -> None:
    images = redundant_images(2, 48, 14, 13)
    case = conv_case(PLAIN, 2, images, bias=False, residual=False, activation="none")
    planes, now = draw_hyperplanes(PLAIN.window_pixels, 0, "layer"), Settings(10, 0.3, 0.2)
    kernels = HasteKernels(case, planes, "projection", skip, "llvm")
    for scale in (1e-21, 1e-16, 1e14):
        x = images * scale
        mine = kernels.run(now, x).y.double()
        eager = haste_conv2d(x, case.weight, None, planes, now, PLAIN, skip=skip).output.double()
        assert (mine - eager).norm() <= 1e-5 * eager.norm()
    # Too small to be decided on: what comes out is no more wrong than it is small.
    x = images * 1e-24
    exact = torch.conv2d(x, case.weight, padding=1).double()
    assert (kernels.run(now, x).y.double() - exact).norm() <= exact.norm()


def test_settings_are_read_at_every_call() -> None:
    x = redundant_images(2, 48, 14, 13)
    case = conv_case(PLAIN, 2, x, bias=True, residual=False, activation="relu")
    planes = draw_hyperplanes(PLAIN.window_pixels, 0, "layer")
    kernels = HasteKernels(case, planes, "projection", "flat", "llvm")
    seen = set()
    for now in (Settings(1, math.inf, 0.5), Settings(30, 0.0, 0.0), Settings(5, 0.4, 0.2), Settings(1, math.inf, 0.5)):
        mine = kernels.run(now)
        oracle = haste_conv2d(x, case.weight, case.bias, planes, now, PLAIN, activation="relu")
        Ran(Example(PLAIN, settings=now), x, case.weight, planes, mine, oracle).check()
        seen.add(tuple(mine.counts.flatten(0, 3).sum(dim=0).tolist()))
    assert len(seen) == 3


def test_the_same_images_give_the_same_bits() -> None:
    x = redundant_images(1, 48, 14, 13)
    case = conv_case(PLAIN, 1, x, bias=True, residual=False, activation="none")
    kernels = HasteKernels(case, draw_hyperplanes(PLAIN.window_pixels, 0, ""), "projection", "flat", "llvm")
    first, second = (kernels.run(Settings(5, 0.4, 0.2)) for _ in range(2))
    assert torch.equal(first.y, second.y) and np.array_equal(first.slot, second.slot)
