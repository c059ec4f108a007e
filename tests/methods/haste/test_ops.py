"""The custom operators: their contracts with PyTorch, and the plain ones' values."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.errors import UnsupportedOperatorError
from haste_compiler.methods.haste.ops.convolve import convolve
from haste_compiler.methods.haste.ops.group import group
from haste_compiler.methods.haste.ops.hash import hash_
from haste_compiler.methods.haste.ops.hyperplanes import hyperplanes
from haste_compiler.methods.haste.ops.merge import merge_
from haste_compiler.methods.haste.reference.grouping import filter_norms
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.ops.activation import apply_activation
from haste_compiler.ops.conv2d import conv2d
from tests.methods.haste.networks import redundant_images

AFTER = ((2, 1), (1, 2, 0, 1), (1, 2), 2, (3, 4))
WINDOW = ((3, 2), *AFTER)
SIZE = (10, 9)

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": torch.relu,
    "relu6": lambda y: y.clamp(0, 6),
    "hardswish": lambda y: y * (y + 3).clamp(0, 6) / 6,
    "hardsigmoid": lambda y: (y + 3).clamp(0, 6) / 6,
    "silu": lambda y: y * torch.sigmoid(y),
    "sigmoid": lambda y: 1 / (1 + torch.exp(-y)),
    "gelu": lambda y: y * 0.5 * (1 + torch.erf(y / math.sqrt(2))),
    "tanh": torch.tanh,
    "leaky_relu:0.01": lambda y: torch.where(y > 0, y, 0.01 * y),
    "clamp:-1:2.5": lambda y: y.clamp(-1, 2.5),
    "clamp:-inf:2": lambda y: y.clamp(max=2),
    "elu:1.0": lambda y: torch.where(y > 0, y, torch.exp(y) - 1),
}


def operands() -> dict[str, Tensor]:
    x, weight = redundant_images(2, 8, *SIZE, seed=3), torch.randn(4, 4, 3, 2)
    packed = Settings(4, 0.5, 0.2).pack()
    planes = draw_hyperplanes(7 * 6, 0, "conv")
    codes = hash_(x, planes, packed, *WINDOW)
    norms = filter_norms(weight, 2)
    slot, coeff, offset = group(x, codes, norms, packed, *WINDOW, "projection", "flat")
    merged = merge_(x, slot, *WINDOW, "projection")
    return locals()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_contracts(memory_format: torch.memory_format) -> None:
    o = operands()
    x = o["x"].contiguous(memory_format=memory_format)
    bias = torch.randn(4)
    y = convolve(o["merged"], o["slot"], o["coeff"], o["offset"], o["weight"], bias, None, SIZE, *AFTER, "relu")
    residual = torch.randn(y.shape).contiguous(memory_format=memory_format)
    check = torch.library.opcheck
    check(conv2d, (x, o["weight"], bias, residual, *AFTER[:4], "relu"))
    check(conv2d, (x, o["weight"], None, None, (1, 1), (1, 1, 1, 1), (1, 1), 2, "none"))
    check(hyperplanes, (42, 0, "conv", torch.device("cpu")))
    check(hash_, (x, o["planes"], o["packed"], *WINDOW))
    for merge in ("mean", "projection"):
        for skip in ("none", "zeros", "flat"):
            check(group, (x, o["codes"], o["norms"], o["packed"], *WINDOW, merge, skip))
        check(merge_, (x, o["slot"], *WINDOW, merge))
    parts = (o["merged"], o["slot"], o["coeff"], o["offset"], o["weight"])
    check(convolve, (*parts, bias, residual, SIZE, *AFTER, "gelu"))
    check(convolve, (*parts, None, None, SIZE, *AFTER, "none"))


def test_windows_cover_the_asymmetric_case() -> None:
    o = operands()
    assert o["merged"].shape == (2, 2, 2, 8, 7, 6)
    assert {t.dtype for t in (o["codes"], o["slot"])} == {torch.int32}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_plain_convolution_with_epilogue(activation: str) -> None:
    x, weight, bias = torch.randn(2, 6, 9, 8), torch.randn(4, 3, 3, 3), torch.randn(4)
    expected = F.conv2d(F.pad(x, (0, 3, 2, 1)), weight, bias, (2, 1), dilation=(1, 2), groups=2)
    residual = torch.randn(expected.shape)
    y = torch.ops.haste.conv2d(x, weight, bias, residual, (2, 1), (2, 1, 0, 3), (1, 2), 2, activation)
    torch.testing.assert_close(y, ACTIVATIONS[activation](expected + residual), atol=1e-5, rtol=1e-5)
    bare = torch.ops.haste.conv2d(x, weight, None, None, (1, 1), (1, 1, 2, 2), (1, 1), 2, activation)
    torch.testing.assert_close(
        bare, ACTIVATIONS[activation](F.conv2d(x, weight, padding=(1, 2), groups=2)), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_keep_nan(activation: str) -> None:
    assert bool(apply_activation(torch.tensor([math.nan, 1.0]), activation)[0].isnan())


@pytest.mark.parametrize("activation", ["", "Relu", "relu:1", "clamp:0", "clamp:a:b", "leaky_relu", "elu:1:2"])
def test_unknown_activations(activation: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match="unknown activation"):
        apply_activation(torch.zeros(3), activation)


def test_settings_survive_packing() -> None:
    for now in (Settings(7, 0.25, 0.5), Settings(30, math.inf, 0.0)):
        assert Settings.unpack(now.pack()) == now
