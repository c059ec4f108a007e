import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.passes.checking import Fn, calls, check_passes, nodes


def image(channels: int = 4, side: int = 9, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, side, side + 1)


# PyTorch says so of its own convolution, which is the case that is tested.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize(
    ("conv", "padding"),
    [
        (nn.Conv2d(4, 6, 3), [0, 0, 0, 0]),
        (nn.Conv2d(4, 6, (3, 5), padding=(1, 2), stride=(2, 1)), [1, 1, 2, 2]),
        (nn.Conv2d(4, 6, (2, 5), padding="same"), [0, 1, 2, 2]),
        (nn.Conv2d(4, 6, 4, padding="same", dilation=(1, 3), groups=2), [1, 2, 4, 5]),
        (nn.Conv2d(4, 6, 4, padding="valid", bias=False), [0, 0, 0, 0]),
        (nn.Conv2d(4, 8, 3, padding=1, groups=4), [1, 1, 1, 1]),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), [0, 0, 0, 0]),
    ],
)
def test_paddings(conv: nn.Conv2d, padding: list[int]) -> None:
    gm = check_passes(conv, image())
    (node,) = nodes(gm, "haste.conv2d")
    assert node.args[5] == padding
    assert node.args[4] == list(conv.stride) and node.args[6] == list(conv.dilation) and node.args[7] == conv.groups


@pytest.mark.parametrize(
    ("pad", "padding"),
    [
        (lambda x: F.pad(x, (1, 2, 3, 4)), [4, 5, 2, 3]),
        (lambda x: F.pad(x, (1, 2)), [1, 1, 2, 3]),
        (lambda x: F.pad(F.pad(x, (1, 2, 0, 0, 0, 0)), (0, 0, 1, 0)), [2, 1, 2, 3]),
        (lambda x: nn.ZeroPad2d((0, 1, 0, 1))(x), [1, 2, 1, 2]),
        (lambda x: F.pad(x, (1, 2), value=0.0), [1, 1, 2, 3]),
    ],
)
def test_zero_padding_becomes_the_convolutions_own(pad: object, padding: list[int]) -> None:
    gm = check_passes(Fn(lambda self, x: self.c(pad(x)), c=nn.Conv2d(4, 6, 3, padding=1)), image())  # type: ignore[operator]
    assert dict(calls(gm)) == {"haste.conv2d": 1}
    assert nodes(gm, "haste.conv2d")[0].args[5] == padding


@pytest.mark.parametrize(
    "pad",
    [
        lambda x: F.pad(x, (1, 2), value=1.0),
        lambda x: F.pad(x, (1, -2)),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
        lambda x: F.pad(x, (0, 0, 0, 0, 0, 1))[:, :4],
    ],
)
def test_other_padding_stays(pad: object) -> None:
    gm = check_passes(Fn(lambda self, x: self.c(pad(x)), c=nn.Conv2d(4, 6, 3, padding=1)), image())  # type: ignore[operator]
    assert "aten.pad" in calls(gm)
    assert nodes(gm, "haste.conv2d")[0].args[5] == [1, 1, 1, 1]


def test_padding_with_another_user_stays_for_it() -> None:
    gm = check_passes(Fn(lambda self, x: (y := F.pad(x, (1, 1)), self.c(y), y)[1:], c=nn.Conv2d(4, 6, 3)), image())
    assert calls(gm)["aten.pad"] == 1 and nodes(gm, "haste.conv2d")[0].args[5] == [0, 0, 1, 1]


def test_input_without_batch() -> None:
    gm = check_passes(nn.Conv2d(4, 6, 3, padding=1), torch.randn(4, 7, 8))
    assert calls(gm)["haste.conv2d"] == 1


def test_convolution_operator_itself() -> None:
    function = lambda self, x: torch.convolution(x, self.w, None, [2, 2], [1, 1], [1, 1], False, [0, 0], 2)  # noqa: E731
    gm = check_passes(Fn(function, w=nn.Parameter(torch.randn(6, 2, 3, 3))), image())
    assert dict(calls(gm)) == {"haste.conv2d": 1}


def test_weights_that_are_computed_stay_dense_aten() -> None:
    gm = check_passes(Fn(lambda self, x: F.conv2d(x, x[:, :, :3, :3])), image(batch=4))
    assert calls(gm)["aten.conv2d"] == 1
    gm = check_passes(Fn(lambda self, x: F.linear(x, x[0, 0])), image())
    assert calls(gm)["aten.linear"] == 1


def test_layer_is_kept() -> None:
    gm = check_passes(nn.Sequential(nn.Conv2d(4, 6, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(6, 4, 3))), image())
    assert [node.meta["layer"] for node in nodes(gm, "haste.conv2d")] == ["0", "1.1"]
