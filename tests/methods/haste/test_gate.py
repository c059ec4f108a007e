"""The gate: a layer that finds too little to merge in a few patches computes the plain convolution instead."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.counts import COUNTS
from haste_compiler.methods.haste.cpu.sampling import sampling
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.settings import Settings
from tests.codegen.kernels import ConvCase, HasteKernels, HasteOutput, conv_case, targets
from tests.methods.haste.networks import redundant_images

SETTINGS = Settings(8, 0.5, 0.2)
OPEN, SHUT = torch.tensor([1e30] + [1.0] * len(COUNTS)), torch.tensor([0.0] + [1.0] * len(COUNTS))
SHAPES = [
    ConvGeometry(32, 48, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (20, 24), (4, 4)),
    ConvGeometry(24, 20, (5, 3), (2, 1), (2, 2, 1, 1), (1, 1), 2, (17, 13), (8, 3)),
    ConvGeometry(16, 16, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (7, 7), (8, 8)),
]


def _kernels(
    geometry: ConvGeometry, *, gated: bool, threads: int = 1, target: str = "llvm", kept: int | None = None
) -> HasteKernels:
    images = redundant_images(2, geometry.in_channels, *geometry.input_size, seed=3)
    planes = draw_hyperplanes(geometry.window_pixels, 0, "layer", 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        case = conv_case(geometry, 2, images, bias=True, residual=True, activation="relu")
    return HasteKernels(case, planes, "projection", "flat", target, threads, gated, kept)


def _dense(case: ConvCase) -> Tensor:
    top, bottom, left, right = case.geometry.padding
    x = F.pad(case.x, (left, right, top, bottom))
    g = case.geometry
    y = F.conv2d(x, case.weight, case.bias, g.stride, 0, g.dilation, g.groups)
    return (y + case.residual).relu() if case.residual is not None else y.relu()


@pytest.mark.parametrize(
    ("geometry", "target"), [*((shape, "llvm") for shape in SHAPES), *((SHAPES[0], target) for target in targets()[1:])]
)
def test_an_open_gate_changes_nothing_and_a_shut_one_gives_the_plain_convolution(
    geometry: ConvGeometry, target: str
) -> None:
    free, gated = _kernels(geometry, gated=False, target=target), _kernels(geometry, gated=True, target=target)
    expected, opened, shut = free.run(SETTINGS), gated.run(SETTINGS, gate=OPEN), gated.run(SETTINGS, gate=SHUT)
    assert opened.chosen == 1 and shut.chosen == 0
    torch.testing.assert_close(opened.y, expected.y, rtol=0, atol=0)
    torch.testing.assert_close(opened.counts, expected.counts, rtol=0, atol=0)
    torch.testing.assert_close(opened.bound, expected.bound, rtol=0, atol=0)
    torch.testing.assert_close(shut.y, _dense(gated.case), rtol=1e-5, atol=1e-5)
    _check_given_up(gated, shut, expected)


def _check_given_up(kernels: HasteKernels, shut: HasteOutput, expected: HasteOutput) -> None:
    geometry = kernels.case.geometry
    sampled = sampling(geometry, kernels.case.batch)
    counts, merges = shut.counts.view(-1, len(COUNTS)), expected.counts.view(-1, len(COUNTS))[:, -1]
    tasks = torch.arange(sampled.tasks)
    first = (tasks % sampled.step == sampled.step // 2) & (tasks // sampled.step < sampled.samples)
    assert int(first.sum()) == sampled.samples
    assert (counts[:, 0] == geometry.in_channels // geometry.groups).all() and not counts[:, 1:-1].any()
    assert torch.equal(counts[:, -1], torch.where(first, merges, 0))
    assert not shut.bound.any()


def test_the_gate_shuts_where_the_samples_cost_more_than_is_allowed() -> None:
    geometry = SHAPES[0]
    kernels, sampled = _kernels(geometry, gated=True), sampling(geometry, 2)
    counts = kernels.run(SETTINGS, gate=OPEN).counts.view(-1, len(COUNTS)).double()
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0, 0.25, 0.125])
    picked = counts[torch.arange(sampled.samples) * sampled.step + sampled.step // 2]
    cost = float((picked @ weights.double()).sum()) / sampled.samples
    for limit, chosen in ((cost * 1.001, 1), (cost * 0.999, 0)):
        gate = torch.cat([torch.tensor([limit], dtype=torch.float32), weights])
        assert kernels.run(SETTINGS, gate=gate).chosen == chosen


def test_threads_change_nothing() -> None:
    one, two = (_kernels(SHAPES[0], gated=True, threads=threads) for threads in (1, 2))
    for gate in (OPEN, SHUT):
        torch.testing.assert_close(one.run(SETTINGS, gate=gate).y, two.run(SETTINGS, gate=gate).y)


def test_windows_that_are_not_kept_change_nothing() -> None:
    kept, again = (_kernels(SHAPES[1], gated=True, kept=images) for images in (None, 0))
    for gate in (OPEN, SHUT):
        one, other = kept.run(SETTINGS, gate=gate), again.run(SETTINGS, gate=gate)
        assert one.chosen == other.chosen
        for name in ("y", "counts", "bound"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)
