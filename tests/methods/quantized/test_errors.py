"""What rounding is found to change a layer by, on a piece of what it reads."""

import pytest
import torch
from torch import nn

import haste_compiler
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.algorithm import Algorithm
from haste_compiler.methods.quantized.errors import relative_errors
from tests.cost.geometries import square


@pytest.mark.parametrize("side", [3, 20, 90])
def test_errors_are_those_of_a_piece_of_any_image(side: int) -> None:
    """Whatever the size that the geometry was made for."""
    x, weight = torch.randn(2, 16, side, side), torch.randn(8, 16, 3, 3)
    algorithms = [Algorithm(size, bits) for size in (0, 2, 4) for bits in (8, 7)]
    errors = dict(relative_errors(x, weight, square(16, 8, 40, 8), algorithms, nonnegative=False))
    assert list(errors) == algorithms and all(0.001 < error < 0.1 for error in errors.values())
    for size in (0, 2, 4):
        assert errors[Algorithm(size, 8)] < errors[Algorithm(size, 7)]


def test_nothing_is_lost_where_values_are_integers_already() -> None:
    geometry = ConvGeometry(8, 4, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (5, 5), (1, 1))
    x, weight = (torch.randint(-127, 128, shape).float() for shape in ((1, 8, 5, 5), (4, 8, 1, 1)))
    x[:, 0], weight[:, 0] = 127.0, 127.0
    assert dict(relative_errors(x, weight, geometry, [Algorithm(0)], nonnegative=False))[Algorithm(0)] < 1e-6


def test_a_network_for_a_batch_is_looked_at_on_one_image() -> None:
    """A linear layer's rows are fewer then than those that it is compiled for."""
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 512)).eval()
    x = torch.randn(40, 3, 8, 8)
    compiled = haste_compiler.compile(model, (x,), precision="int8")
    head = {layer.kind: layer for layer in compiled.layers}["linear"]
    assert head.method == "quantized", head.reason
    expected = model(x)
    assert 0 < (compiled(x) - expected).norm() < 0.02 * expected.norm()
