"""What layers of bfloat16 compute, against PyTorch's convolution in float32."""

import pytest
import torch
from torch.nn import functional as F

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.bfloat16.errors import relative_error
from haste_compiler.methods.bfloat16.reference.direct import convolve_rounded
from haste_compiler.methods.bfloat16.reference.rounding import SPOILED_BITS, rounded
from haste_compiler.methods.bfloat16.reference.winograd import winograd_rounded
from haste_compiler.methods.bfloat16.weights import round_filters, round_transformed
from haste_compiler.methods.quantized.reference.plain import padded
from tests.cost.geometries import square
from tests.methods.quantized.reference.test_winograd import GEOMETRIES


def test_halves_become_even_and_large_values_infinite() -> None:
    step = 2.0**-7
    values = torch.tensor([1 + step / 2, 1 + 3 * step / 2, 1 + step / 2 + 1e-6, -1 - step / 2, 2.0**-130])
    assert rounded(values).tolist() == [1, 1 + 2 * step, 1 + step, -1, 2.0**-130]
    edge = torch.tensor([SPOILED_BITS - 1, SPOILED_BITS], dtype=torch.int32).view(torch.float32)
    assert rounded(edge).isfinite().tolist() == [True, False]


def test_values_that_are_bfloat16_already_lose_nothing() -> None:
    geometry = ConvGeometry(12, 8, (3, 2), (2, 1), (1, 0, 2, 1), (1, 2), 2, (7, 9), (8, 8))
    x, weight = (torch.randint(-8, 9, shape).float() for shape in ((2, 12, 7, 9), (8, 6, 3, 2)))
    y = convolve_rounded(x, round_filters(weight), geometry)
    assert torch.equal(y, F.conv2d(padded(x, geometry), weight, None, (2, 1), 0, (1, 2), 2))


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_what_winograd_changes_is_small_and_what_is_not_finite_stays_where_it_is(
    geometry: ConvGeometry, size: int
) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, geometry.in_channels, *geometry.input_size), torch.randn(9, geometry.in_channels, 3, 3)
    wanted = F.conv2d(padded(x, geometry), weight)
    y = winograd_rounded(x, round_transformed(weight, size), round_filters(weight), geometry, size)
    assert y.shape == wanted.shape and (y - wanted).norm() < {2: 0.006, 4: 0.03}[size] * wanted.norm()
    x[0, 0, 1, 1], x[1, -1, -1, -1] = torch.nan, torch.inf
    y = winograd_rounded(x, round_transformed(weight, size), round_filters(weight), geometry, size)
    assert torch.equal(y.isfinite(), F.conv2d(padded(x, geometry), weight).isfinite())


@pytest.mark.parametrize("side", [3, 20, 90])
def test_errors_are_those_of_a_piece_of_any_image(side: int) -> None:
    """Whatever the size that the geometry was made for."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 16, side, side), torch.randn(8, 16, 3, 3)
    errors = [relative_error(x, weight, square(16, 8, 40, 8), size) for size in (0, 2, 4)]
    assert 0.001 < errors[0] < errors[1] < errors[2] < 0.016
