"""The card's cost model: what follows from its figures, and that layers which can't pay stay dense."""

from dataclasses import replace

import numpy as np
import pytest

from haste_compiler.codegen.cuda.cost import CudaCostModel
from haste_compiler.codegen.cuda.precision import Precision
from haste_compiler.codegen.target import parse_target
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.found import Merging, borders, mostly_zero

IMAGE = ConvGeometry(256, 256, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (14, 14), (64, 64))
PATCHES = replace(IMAGE, patch=(8, 8))


def model(precision: Precision = "fp32") -> CudaCostModel:
    return CudaCostModel.of(parse_target("cuda -arch=sm_90"), precision)


def haste(model: CudaCostModel, geometry: ConvGeometry, batch: int, found: Merging) -> float:
    return model.group(geometry, batch, 16, 2, found) + model.convolve(geometry, batch, "flat", found)


def half_merged(geometry: ConvGeometry) -> Merging:
    """Half of the channels in groups of four, the others alone."""
    border = borders(geometry)
    return Merging(np.tile([128.0, 32.0, 128.0, 0.0, 0.0, 128.0], (len(border), 1)), border)


def test_merging_filters_for_one_patch_takes_longer_than_convolving_it() -> None:
    found = half_merged(PATCHES)
    now = model("tf32")
    one = replace(PATCHES, input_size=(8, 8))
    merging = now.convolve(one, 132, "flat", half_merged(one)) - now.convolve(one, 132, "flat", mostly_zero(one, 0.625))
    assert merging > now.dense(one, 132) * 0.5
    # Larger patches merge fewer filters.
    assert now.convolve(IMAGE, 132, "flat", half_merged(IMAGE)) < now.convolve(PATCHES, 132, "flat", found)


def test_one_small_image_never_pays_and_many_images_of_zeros_may() -> None:
    nothing = mostly_zero(IMAGE, 0.1)
    for precision in ("fp32", "tf32", "bf16"):
        now = model(precision)
        assert haste(now, IMAGE, 1, nothing) > now.dense(IMAGE, 1)
    now = model("fp32")
    assert haste(now, IMAGE, 256, nothing) < 0.6 * now.dense(IMAGE, 256)


def test_faster_products_leave_less_to_gain() -> None:
    nothing = mostly_zero(IMAGE, 0.1)
    shares = [
        haste(model(precision), IMAGE, 256, nothing) / model(precision).dense(IMAGE, 256)
        for precision in ("fp32", "tf32", "bf16")
    ]
    assert shares == sorted(shares) and shares[0] < shares[2]


@pytest.mark.parametrize("batch", [1, 32, 256])
def test_times_are_no_shorter_than_the_memory_allows(batch: int) -> None:
    written = 4 * batch * 256 * 14 * 14
    assert model("bf16").dense(IMAGE, batch) > written / 3.3e12


def test_winograds_algorithm_is_what_haste_has_to_beat() -> None:
    now, many = model("fp32"), replace(IMAGE, input_size=(28, 28))
    assert now.dense(many, 32, winograd=4) < 0.7 * now.dense(many, 32)
    # One image has too few products for two more launches; the tensor cores have no use for it.
    assert now.dense(IMAGE, 1, winograd=4) == now.dense(IMAGE, 1)
    assert model("tf32").dense(many, 32, winograd=4) == model("tf32").dense(many, 32)
