"""What ``LayerStats`` derives from counts."""

import numpy as np
import pytest
import torch
from torch import nn

import haste_compiler
from haste_compiler import HasteConfig, LayerStats
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.macs import MacCount
from tests.methods.haste.networks import redundant_images
from tests.passes.checking import Fn


def test_shares_of_the_channels() -> None:
    geometry = ConvGeometry(10, 4, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (8, 8), (8, 8))
    # Singles, groups, members, zeros, flats, merges.
    counts = np.array([[[[[3, 1, 4, 1, 2, 4]]]], [[[[10, 0, 0, 0, 0, 0]]]]], np.int32)
    stats = LayerStats("conv", geometry, 2, counts, np.array([[[[3.0]]], [[[4.0]]]], np.float32), MacCount())
    assert stats.channels == 20
    assert (stats.kept, stats.merged, stats.skipped) == (14 / 20, 3 / 20, 3 / 20)
    assert stats.error_bound == pytest.approx(5)


def test_layers_that_share_a_grouping_pay_for_it_once() -> None:
    model = Fn(lambda m, x: (m.left(x), m.right(x)), left=nn.Conv2d(12, 8, 3), right=nn.Conv2d(12, 16, 3)).eval()
    x = redundant_images(2, 12, 11, 11)
    compiled = haste_compiler.compile(model, (x,), config=HasteConfig(num_hyperplanes=3, cost_model=False))
    left, right = compiled.stats(x).values()
    assert (left.name, right.name) == ("left", "right")
    np.testing.assert_array_equal(left.counts, right.counts)
    assert left.macs.hashing > 0 and right.macs.hashing == right.macs.norms == right.macs.merge_inputs == 0
    assert 2 * left.macs.convolution == right.macs.convolution
    # Steering one of them steers both.
    compiled.tolerance = {"right": 0.0}
    assert compiled.tolerance == 0.0
    exact = compiled(x)
    for mine, theirs in zip(exact, model(x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=float(left.error_bound))
