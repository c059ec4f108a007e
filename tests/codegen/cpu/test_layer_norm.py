"""A norm that reads beyond its row, or takes the mean of another, changes every value after it."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.codegen.cpu.kernels.layer_norm import layer_norm_kernel
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from tests.codegen.kernels import assert_near, on_x86, run_kernel, targets


def normalised(x: Tensor, weight: Tensor, bias: Tensor, target: str, eps: float = 1e-5) -> Tensor:
    lanes = vector_unit(parse_target(target)).lanes
    kernel = layer_norm_kernel("norm", tuple(x.shape), weight.dim(), eps, lanes)
    return run_kernel(kernel, target, x.shape, x, weight, bias)


@on_x86
@pytest.mark.parametrize("target", targets())
@settings(max_examples=15, deadline=None)
@given(
    leading=st.lists(st.integers(1, 70), max_size=2),
    normed=st.lists(st.integers(1, 70), min_size=1, max_size=2),
    eps=st.sampled_from([1e-6, 1e-5, 0.1]),
)
def test_it_is_the_layer_norm(target: str, leading: list[int], normed: list[int], eps: float) -> None:
    """Rows around whole and partial vectors, of one and of several tasks, and means far from zero."""
    x = torch.randn(*leading, *normed) * (torch.rand(*leading, *[1] * len(normed)) + 0.5) + 2
    weight, bias = torch.randn(normed), torch.randn(normed)
    wanted = F.layer_norm(x.double(), normed, weight.double(), bias.double(), eps)
    assert_near(normalised(x, weight, bias, target, eps), wanted, 1e-6)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_what_is_not_finite_stays_in_its_row(value: float) -> None:
    x = torch.randn(5, 37)
    x[1, 3] = x[3, 36] = value
    weight, bias = torch.randn(37), torch.randn(37)
    expected = F.layer_norm(x, (37,), weight, bias)
    torch.testing.assert_close(normalised(x, weight, bias, "llvm"), expected, equal_nan=True)


class Block(nn.Module):
    """ConvNeXt's: a depthwise convolution, then a norm and linear layers over the channels of every pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.own = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, 4 * channels)
        self.narrow = nn.Linear(4 * channels, channels)
        nn.init.normal_(self.norm.weight), nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.own(x).permute(0, 2, 3, 1))
        return self.narrow(F.gelu(self.widen(y))).permute(0, 3, 1, 2) + x


@pytest.mark.parametrize("batch", [None, torch.export.Dim("batch", min=1)])
def test_a_norm_over_channels_moves_nothing(batch: object) -> None:
    """Of two such blocks only the layers run; what is transposed is the image (and ``shape_func`` computes sizes)."""
    model = nn.Sequential(nn.Conv2d(3, 20, 2), Block(20), Block(20), nn.Conv2d(20, 4, 1)).eval()
    x = torch.randn(2, 3, 9, 10)
    shapes = None if batch is None else ({0: batch},)
    compiled = haste_compiler.compile(model, (x,), config=HasteConfig(enabled=False), dynamic_shapes=shapes)
    for images in (2,) if batch is None else (2, 5):
        x = torch.randn(images, 3, 9, 10)
        with torch.no_grad():
            assert_near(compiled(x), model(x).double())
    blocks = {f"{i}.{layer}" for i in (1, 2) for layer in ("own", "norm", "widen", "narrow")}
    moved = compiled.profile(x).keys() - blocks - {"0", "3"}
    assert moved <= {"transpose", "shape_func"}
