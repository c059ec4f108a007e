"""The work that is counted for the kernels, against what the convolution takes at least."""

import dataclasses

import numpy as np
import pytest

from haste_compiler.codegen.cpu.cost import DENSE, dense_features
from haste_compiler.codegen.cpu.kernels.conv2d import conv_work
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import choose_tiling
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.cpu.cost import CONVOLVE, GROUP, convolve_features, group_features
from haste_compiler.methods.haste.cpu.tiling import choose_haste_tiling
from haste_compiler.methods.haste.found import Merging, borders, mostly_zero
from tests.cost.geometries import square

UNITS = [VectorUnit(16, 32), VectorUnit(8, 16, 1 << 18), VectorUnit(4, 16, 1 << 18)]
GEOMETRIES = [
    square(64, 64, 56, 8),
    square(512, 512, 7, 7),
    square(24, 40, 19, 5),
    ConvGeometry(32, 48, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (9, 9), (4, 4)),
    ConvGeometry(32, 64, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 4, (17, 17), (4, 4)),
]


def everything_flat(geometry: ConvGeometry) -> Merging:
    border, channels = borders(geometry), geometry.in_channels / geometry.groups
    return Merging(np.tile([0.0, 0, 0, 0, channels, 0], (len(border), 1)), border)


@pytest.mark.parametrize("unit", UNITS, ids=["16 lanes", "8 lanes", "4 lanes"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_no_kernel_is_counted_less_arithmetic_than_it_does(geometry: ConvGeometry, unit: VectorUnit) -> None:
    # Two vector FMAs a cycle are the most that the model's machine can do.
    least = 3 * geometry.dense_macs / unit.lanes / 2
    dense = dense_features(geometry, 3, choose_tiling(conv_work(geometry, 3), unit, 1), unit, 1)
    whole = convolve_features(geometry, 3, unit, 1, "flat", mostly_zero(geometry, 1.0))
    assert tuple(dense) == DENSE and tuple(whole) == CONVOLVE
    assert dense["cycles"] >= least and whole["cycles"] >= least
    half = convolve_features(geometry, 3, unit, 1, "flat", mostly_zero(geometry, 0.5))
    assert half["cycles"] == pytest.approx(whole["cycles"] / 2) and half["traffic"] < whole["traffic"]


def test_grouping_is_counted_for_every_patch_and_group() -> None:
    geometry, unit = GEOMETRIES[-1], UNITS[0]
    one, two = (group_features(geometry, 1, unit, threads, 10, None, mostly_zero(geometry, 1.0)) for threads in (1, 2))
    assert tuple(one) == GROUP and one["tasks"] == 9 * 4 and one["channels"] == 9 * 32
    assert two["tasks"] == 9 * 2
    more = group_features(geometry, 1, unit, 1, 20, None, mostly_zero(geometry, 1.0))
    assert more["hash"] == 2 * one["hash"] and more["window"] == one["window"]


def test_merging_costs_inputs_and_filters() -> None:
    geometry, unit = square(64, 64, 16, 8), UNITS[0]
    border = borders(geometry)
    pairs = Merging(np.tile([0.0, 32, 64, 0, 0, 64], (len(border), 1)), border)
    again = dataclasses.replace(pairs, counts=np.tile([0.0, 32, 64, 0, 0, 128], (len(border), 1)))
    zero = mostly_zero(geometry, 0.5)
    merged, dropped = (convolve_features(geometry, 1, unit, 1, "flat", state) for state in (pairs, zero))
    assert merged["cycles"] == dropped["cycles"] and merged["merged_filters"] > 0 == dropped["merged_filters"]
    once, twice = (group_features(geometry, 1, unit, 1, 10, None, state)["merge"] for state in (pairs, again))
    assert twice == 2 * once > 0


def test_carried_means_cost_a_channel_where_a_patch_reads_padding_only() -> None:
    geometry, unit = square(64, 64, 32, 8), UNITS[0]
    tile = choose_haste_tiling(geometry, 1, unit, 1).tile
    found = convolve_features(geometry, 1, unit, 1, "flat", everything_flat(geometry))
    steps = 64 // tile.channels
    # Of 4 × 4 patches 12 read padding.
    assert found["flats"] == 4 * 64 * steps * tile.vectors
    assert found["merged_filters"] == pytest.approx(12 * 64 * 9 * steps * tile.vectors)


def test_windows_that_are_not_kept_are_not_read_from_memory() -> None:
    unit = UNITS[0]
    for side, spills in ((112, True), (512, False)):
        geometry = square(64, 64, side, 8)
        state = mostly_zero(geometry, 0.5)
        grouping = group_features(geometry, 1, unit, 1, 10, None, state)
        convolving = convolve_features(geometry, 1, unit, 1, "flat", state)
        assert (grouping["spill"] > 0) == (convolving["spill"] > 0) == spills
