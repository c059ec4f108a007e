import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.checking import Fn, calls, check_passes, nodes


def image() -> Tensor:
    return torch.randn(2, 12, 6, 6)


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("last", ["view", "reshape", "flatten", "native"])
def test_channel_shuffle(groups: int, last: str) -> None:
    def shuffle(self: nn.Module, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if last == "native":
            return F.channel_shuffle(x, groups)
        y = x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous()
        return {
            "view": lambda: y.view(n, c, h, w),
            "reshape": lambda: y.reshape(x.shape),
            "flatten": lambda: y.view(n, -1, h, w),
        }[last]()

    gm = check_passes(Fn(shuffle), image())
    assert calls(gm) == {"haste.channel_shuffle": 1}
    assert nodes(gm, "haste.channel_shuffle")[0].args[1] == groups


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: x.view(2, 2, 6, 6, 6).transpose(1, 2).reshape(2, 6, 12, 6),
        lambda self, x: x.view(2, 2, 6, 6, 6).transpose(1, 3).reshape(2, 12, 6, 6),
        lambda self, x: (y := x.view(2, 2, 6, 6, 6).transpose(1, 2), y.reshape(2, 12, 6, 6) + y.sum())[-1],
    ],
)
def test_what_is_no_channel_shuffle(function: object) -> None:
    assert "haste.channel_shuffle" not in calls(check_passes(Fn(function), image()))


def test_new_operators_are_well_formed() -> None:
    x, weight, residual = torch.randn(2, 6, 4, 4), torch.randn(3, 4), torch.randn(2, 6, 4, 3)
    torch.library.opcheck(torch.ops.haste.channel_shuffle.default, ([x], 3, 0, 6))
    torch.library.opcheck(torch.ops.haste.channel_shuffle.default, ([x, x + 1], 2, 4, 10))
    for bias, added, activation in ((None, None, "none"), (torch.randn(3), residual, "relu")):
        torch.library.opcheck(torch.ops.haste.linear.default, (x, weight, bias, added, activation))
