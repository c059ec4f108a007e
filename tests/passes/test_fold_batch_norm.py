from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from haste_compiler.graph.capture import capture
from haste_compiler.passes.fold_batch_norm import fold_batch_norm
from tests.passes.checking import Fn, assert_same, calls, check_passes, nodes, settled


def image(channels: int = 4, side: int = 7, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, side, side)


def channels(count: int = 6) -> Tensor:
    return torch.rand(count) + 0.5


def dense(gm: object) -> dict[str, int]:
    return dict(calls(gm))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)),
        nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)),
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)),
        nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, padding="same"), nn.BatchNorm2d(6)),
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.Identity(), nn.Dropout2d(), nn.BatchNorm2d(6)),
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6)),
        nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)),
    ],
)
def test_batch_norm_after_convolution(model: nn.Module) -> None:
    assert set(dense(check_passes(settled(model), image()))) == {"haste.conv2d"}


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: self.c(x) * self.s.view(1, 6, 1, 1) + self.s.view(6, 1, 1),
        lambda self, x: self.s.view(6, 1, 1) * self.c(x) - self.s.view(6, 1, 1),
        lambda self, x: self.s.view(6, 1, 1) - self.c(x),
        lambda self, x: 3 - self.c(x) / self.s.view(6, 1, 1),
        lambda self, x: (self.c(x) * 2 + 1) / 4,
        lambda self, x: torch.add(self.c(x), self.s.view(6, 1, 1), alpha=3),
        lambda self, x: torch.add(self.s.view(6, 1, 1), self.c(x), alpha=3),
        lambda self, x: torch.sub(self.c(x), 2, alpha=3),
        lambda self, x: self.b(self.c(x) * 2) + self.s[:, None, None],
        lambda self, x: self.c(x) * self.s.mean(),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_constant_maps_after_convolution(function: object, bias: bool) -> None:
    model = settled(Fn(function, c=nn.Conv2d(4, 6, 3, bias=bias), b=nn.BatchNorm2d(6), s=channels()))
    assert dense(check_passes(model, image())) == {"haste.conv2d": 1}


@pytest.mark.parametrize(
    ("function", "left"),
    [
        # Another user of the convolution's own result.
        (lambda self, x: (y := self.c(x), self.b(y) + y.sigmoid())[-1], {"aten.mul": 1, "aten.sigmoid": 1}),
        # Maps that vary over pixels, or change the shape, or divide by the result.
        (lambda self, x: self.c(x) * self.m, {"aten.mul": 1}),
        (lambda self, x: self.c(x) * self.s[:, None, None, None], {"aten.mul": 1}),
        (lambda self, x: 1 / self.c(x), {"aten.reciprocal": 1, "aten.mul": 1}),
        (lambda self, x: self.c(x) / 0.0, {"aten.div": 1}),
        (lambda self, x: self.c(x) + x.sum(), {"aten.add": 1}),
    ],
)
def test_what_is_not_folded(function: object, left: dict[str, int]) -> None:
    parts = {"c": nn.Conv2d(4, 6, 3), "b": nn.BatchNorm2d(6), "s": channels(), "m": torch.rand(5, 5)}
    model = settled(Fn(function, **parts))
    gm = fold_batch_norm(capture(model, (image(batch=6),)).gm)
    assert calls(gm)["aten.conv2d"] == 1
    assert left.items() <= calls(gm).items()
    if "aten.div" not in left:
        check_passes(model, image(batch=6))


def test_batch_norms_with_nothing_to_fold_into_are_spelled_out() -> None:
    model = settled(nn.Sequential(nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 6, 3)))
    gm = check_passes(model, torch.randn(2, 4, 5, 6, 6))
    assert dense(gm) == {"aten.mul": 1, "aten.add": 1, "aten.relu": 1, "aten.conv3d": 1}
    scale = nodes(gm, "aten.mul")[0].args[1]
    assert scale.meta["val"].shape == (4, 1, 1, 1)  # type: ignore[union-attr]
    # Those of images are one operator.
    images = settled(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3)))
    assert dense(check_passes(images, image())) == {"haste.affine": 1, "haste.conv2d": 1}


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 9), (2, 4, 3, 3), (2, 4, 3, 3, 3)])
def test_batch_norm_of_any_rank(shape: tuple[int, ...]) -> None:
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    spelled_out = {"haste.affine": 1} if len(shape) == 4 else {"aten.mul": 1, "aten.add": 1}
    assert dense(check_passes(settled(kind(4)), torch.randn(shape))) == spelled_out


def test_batch_norm_that_uses_the_batch_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, track_running_stats=False))
    assert dense(check_passes(model, image())) == {"haste.conv2d": 1, "aten.batch_norm": 1}


def test_linear_layers() -> None:
    model = settled(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU()))
    assert dense(check_passes(model, torch.randn(3, 5))) == {"haste.linear": 1}
    scaled = Fn(lambda self, x: self.l(x) * self.s + 1, l=nn.Linear(5, 6, bias=False), s=channels())
    assert dense(check_passes(scaled, torch.randn(3, 2, 5))) == {"haste.linear": 1}
    # Of (N, L, C) a batch norm takes L for the channels.
    model = settled(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(7)))
    assert dense(check_passes(model, torch.randn(3, 7, 5))) == {"haste.linear": 1, "aten.mul": 1, "aten.add": 1}


def test_maps_behind_a_permutation() -> None:
    def block(self: Any, x: Tensor) -> Tensor:
        y = self.l(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.s[:, None, None] * y

    model = Fn(block, l=nn.Linear(4, 4), s=channels(4))
    # The addition is the layer's residual, permuted like its input.
    assert dense(check_passes(model, image())) == {"haste.linear": 1, "aten.permute": 3}
    swapped = Fn(lambda self, x: self.b(self.c(x).transpose(1, 2)), c=nn.Conv2d(4, 6, 3), b=nn.BatchNorm2d(5))
    assert dense(check_passes(settled(swapped), image()))["haste.affine"] == 1


def test_shared_weights_are_folded_apart() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    model = settled(nn.Sequential(conv, nn.BatchNorm2d(4), conv, nn.BatchNorm2d(4), conv))
    gm = check_passes(model, image())
    assert len({node.args[1] for node in nodes(gm, "haste.conv2d")}) == 3


def test_fold_is_computed_in_float64() -> None:
    model, x = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)), image(8)
    settled(model)
    gm = fold_batch_norm(capture(model, (x,)).gm)
    conv: Any = model[0].double()
    norm: Any = model[1].double()
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = (conv.weight * scale[:, None, None, None]).float()
    bias = ((conv.bias - norm.running_mean) * scale + norm.bias).float()
    assert_same(gm(x), F.conv2d(x, weight, bias), 0)


def test_other_convolutions() -> None:
    model = settled(nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)))
    assert dense(check_passes(model, torch.randn(2, 4, 9))) == {"aten.conv1d": 1}
    model = settled(nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)))
    assert dense(check_passes(model, image())) == {"haste.conv_transpose2d": 1}
    model = settled(nn.Sequential(nn.ConvTranspose1d(4, 6, 3, groups=2, bias=False), nn.BatchNorm1d(6)))
    assert dense(check_passes(model, torch.randn(2, 4, 9))) == {"aten.conv_transpose1d": 1}


def test_double_precision_stays() -> None:
    model = settled(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))).double()
    assert dense(check_passes(model, image().double(), tolerance=1e-12)) == {"aten.conv2d": 1}
