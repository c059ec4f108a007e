"""Transposed convolutions become one operator with what follows them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.passes.checking import Fn, calls, check_passes, nodes, settled


def image(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 4, 7, 8)


@pytest.mark.parametrize(
    ("layer", "numbers"),
    [
        (nn.ConvTranspose2d(4, 6, 2, 2), ([2, 2], [0, 0], [0, 0], [1, 1], 1)),
        (nn.ConvTranspose2d(4, 6, (3, 5), (2, 3), (1, 2), (1, 0)), ([2, 3], [1, 2], [1, 0], [1, 1], 1)),
        (nn.ConvTranspose2d(4, 6, 3, bias=False, groups=2, dilation=(1, 2)), ([1, 1], [0, 0], [0, 0], [1, 2], 2)),
    ],
)
def test_numbers(layer: nn.ConvTranspose2d, numbers: tuple[object, ...]) -> None:
    (node,) = nodes(check_passes(layer, image()), "haste.conv_transpose2d")
    assert node.args[4:9] == numbers


def test_the_general_convolution() -> None:
    convolution = torch.ops.aten.convolution.default
    gm = check_passes(
        Fn(
            lambda self, x: convolution(x, self.w, None, [2, 2], [1, 1], [1, 1], True, [1, 0], 2),
            w=torch.randn(4, 3, 3, 3),
        ),
        image(),
    )
    assert dict(calls(gm)) == {"haste.conv_transpose2d": 1}


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_norm_and_activation(groups: int, bias: bool) -> None:
    layer = nn.ConvTranspose2d(4, 8, 4, 2, 1, bias=bias, groups=groups)
    gm = check_passes(settled(nn.Sequential(layer, nn.BatchNorm2d(8), nn.LeakyReLU(0.2, inplace=True))), image())
    (node,) = nodes(gm, "haste.conv_transpose2d")
    assert dict(calls(gm)) == {"haste.conv_transpose2d": 1} and node.args[-1] == "leaky_relu:0.2"


def test_norm_after_the_general_convolution() -> None:
    convolution = torch.ops.aten.convolution.default
    gm = check_passes(
        settled(
            Fn(
                lambda self, x: self.norm(convolution(x, self.w, None, [2, 2], [1, 1], [1, 1], True, [0, 0], 2)),
                w=torch.randn(4, 3, 3, 3),
                norm=nn.BatchNorm2d(6),
            )
        ),
        image(),
    )
    assert dict(calls(gm)) == {"haste.conv_transpose2d": 1}


def test_residual() -> None:
    layer = nn.ConvTranspose2d(4, 4, 3, 1, 1)
    gm = check_passes(Fn(lambda self, x: F.relu(self.up(x) + x), up=layer), image())
    assert dict(calls(gm)) == {"haste.conv_transpose2d": 1}


def test_an_image_without_batch() -> None:
    gm = check_passes(nn.ConvTranspose2d(4, 6, 3, 2), torch.randn(4, 7, 8))
    assert dict(calls(gm)) == {"aten.unsqueeze": 1, "haste.conv_transpose2d": 1, "aten.squeeze": 1}


def test_others_stay() -> None:
    gm = check_passes(Fn(lambda self, x: F.conv_transpose2d(x, x[:, :, :3, :3])), image(batch=4))
    assert calls(gm)["aten.conv_transpose2d"] == 1
    gm = check_passes(nn.ConvTranspose1d(4, 6, 3), torch.randn(2, 4, 9))
    assert dict(calls(gm)) == {"aten.conv_transpose1d": 1}
