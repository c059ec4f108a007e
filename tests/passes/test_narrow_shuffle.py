"""A shuffle that reads a group too many, or a split that starts one channel off, garbles every ShuffleNet."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.passes.checking import Fn, calls, check_passes, nodes

X = torch.randn(2, 6, 5, 4)


def shuffled(self: nn.Module, x: Tensor) -> Tensor:
    return F.channel_shuffle(torch.cat((x.relu(), x.sigmoid()), 1), 2)


def test_halves_of_a_shuffle_read_the_tensors_that_were_joined() -> None:
    gm = check_passes(Fn(lambda self, x: torch.stack(shuffled(self, x).chunk(2, 1))), X)
    first, second = nodes(gm, "haste.channel_shuffle")
    assert first.args[2:] == (0, 6) and second.args[2:] == (6, 12)
    parts: Any = first.args[0]
    assert [part.target for part in parts] == [torch.ops.aten.relu.default, torch.ops.aten.sigmoid.default]
    assert not {"aten.cat", "aten.slice"} & set(calls(gm))


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y[:, 1:5],
        lambda y: y[:, 0:8:2],
        lambda y: y[:, :, 2:4],
    ],
)
def test_other_slices_stay(function: object) -> None:
    gm = check_passes(Fn(lambda self, x: function(shuffled(self, x))), X)  # type: ignore[operator]
    assert calls(gm)["aten.slice"] == 1 and calls(gm)["haste.channel_shuffle"] == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.channel_shuffle(torch.cat((x, x[:, :2], x[:, 2:]), 1), 2),
        lambda x: F.channel_shuffle(torch.cat((x[:, :2], x), 1), 2),
        lambda x: F.channel_shuffle(torch.cat((x, x), 2), 2),
    ],
)
def test_other_joins_stay(function: object) -> None:
    gm = check_passes(Fn(lambda self, x: function(x)), X)  # type: ignore[operator]
    assert calls(gm)["aten.cat"] == 1 and calls(gm)["haste.channel_shuffle"] == 1


def test_of_a_shuffle_that_is_needed_whole_its_slices_are_made_too() -> None:
    def both(self: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        y = shuffled(self, x)
        return y, y[:, 4:8]

    gm = check_passes(Fn(both), X)
    assert sorted(node.args[2:] for node in nodes(gm, "haste.channel_shuffle")) == [(0, 12), (4, 8)]
