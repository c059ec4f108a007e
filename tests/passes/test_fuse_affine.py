"""A scale taken from another channel changes every output of a network with batch norms before its convolutions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.passes.checking import Fn, calls, check_passes, nodes, settled

X = torch.randn(2, 6, 5, 4)


def norm(channels: int) -> nn.Module:
    return settled(nn.BatchNorm2d(channels))


def test_a_batch_norm_takes_in_the_join_before_it_and_the_activation_after_it() -> None:
    gm = check_passes(Fn(lambda self, x: F.relu(self.norm(torch.cat((x, x.sigmoid()), 1))), norm=norm(12)), X)
    assert dict(calls(gm)) == {"aten.sigmoid": 1, "haste.affine": 1}
    (node,) = nodes(gm, "haste.affine")
    assert len(node.args[0]) == 2 and node.args[-1] == "relu"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: (y := torch.cat((x, x), 1), self.norm(y) + y.sum())[-1],
        lambda self, x: self.norm(torch.cat((x, x), 2).reshape(2, 12, 5, 4)),
    ],
)
def test_other_joins_stay(function: object) -> None:
    gm = check_passes(Fn(function, norm=norm(12)), X)
    assert calls(gm)["aten.cat"] == calls(gm)["haste.affine"] == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: x * self.scale + self.scale.reshape(1, 1, 1, 6),
        lambda self, x: (y := x * self.scale[:, None, None], (y + self.scale[:, None, None]) * y)[-1],
    ],
)
def test_other_maps_stay(function: object) -> None:
    x = torch.randn(2, 6, 5, 6)
    assert "haste.affine" not in calls(check_passes(Fn(function, scale=torch.randn(6)), x))


def test_a_batch_norm_that_others_read_keeps_its_activation_apart() -> None:
    gm = check_passes(Fn(lambda self, x: (y := self.norm(x), y.relu() + y)[-1], norm=norm(6)), X)
    assert nodes(gm, "haste.affine")[0].args[-1] == "none" and calls(gm)["aten.relu"] == 1


def test_the_operator_is_well_formed() -> None:
    torch.library.opcheck(torch.ops.haste.affine.default, ([X, X], torch.randn(12), torch.randn(12), "relu"))
