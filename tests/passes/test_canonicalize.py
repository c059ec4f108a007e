from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from haste_compiler.graph.capture import capture
from haste_compiler.passes.canonicalize import canonicalize, driver
from tests.passes.checking import Fn, calls, check_passes, nodes


def image(channels: int = 4, side: int = 6, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, side, side)


def only(gm: object) -> dict[str, int]:
    return dict(calls(gm))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: F.dropout(x, training=False) + 1,
        lambda self, x: nn.Identity()(x).contiguous().clone().detach() + 1,
        lambda self, x: x.to(torch.float32).type_as(x).float() + 1,
        lambda self, x: F.dropout2d(x, training=False).view(x.shape).expand(2, 4, 6, 6) + 1,
        lambda self, x: F.adaptive_avg_pool2d(x, (6, 6)) + 1,
        lambda self, x: torch.cat([x[:, :]], 1).permute(0, 1, 2, 3) + 1,
        lambda self, x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2) + 1,
        lambda self, x: x.clamp(-float("inf"), float("inf")) + 1,
    ],
)
def test_no_ops_are_dropped(function: object) -> None:
    assert only(check_passes(Fn(function), image())) == {"aten.add": 1}


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda self, x: F.hardtanh(x, 0, 6), {"aten.relu6": 1}),
        (lambda self, x: F.hardtanh(x), {"aten.clamp": 1}),
        (lambda self, x: x.clamp(0, 6), {"aten.relu6": 1}),
        (lambda self, x: x.clamp(min=0), {"aten.relu": 1}),
        (lambda self, x: x.clamp_min(0), {"aten.relu": 1}),
        (lambda self, x: x.clamp_max(0.5), {"aten.clamp": 1}),
        (lambda self, x: x * torch.sigmoid(x), {"aten.silu": 1}),
        (lambda self, x: torch.sigmoid(x) * x, {"aten.silu": 1}),
        (lambda self, x: x.view(2, -1), {"aten.reshape": 1}),
        (lambda self, x: x.transpose(1, 2).contiguous().view(2, -1), {"aten.permute": 1, "aten.reshape": 1}),
        (lambda self, x: x.transpose(-1, 1), {"aten.permute": 1}),
        (lambda self, x: x[0, 0].t(), {"aten.select": 2, "aten.permute": 1}),
        (lambda self, x: x.mean([-1, -2]), {"aten.mean": 1}),
        (lambda self, x: x.mean(), {"aten.mean": 1}),
        (lambda self, x: F.adaptive_avg_pool2d(x, 1).flatten(1), {"aten.adaptive_avg_pool2d": 1, "aten.flatten": 1}),
        (lambda self, x: tuple(x.chunk(3, 1)), {"aten.slice": 2}),
        (lambda self, x: tuple(x.split([1, 3], -3)), {"aten.slice": 2}),
        (lambda self, x: tuple(x.split(2, 1)), {"aten.slice": 2}),
        (lambda self, x: x.chunk(2, 1)[1], {"aten.slice": 1}),
        (lambda self, x: x.unbind(1)[-1], {"aten.select": 1}),
        (lambda self, x: torch.cat([x, x], -3), {"aten.cat": 1}),
        (lambda self, x: F.max_pool2d(x, 2, return_indices=True)[0], {"aten.max_pool2d": 1}),
        (lambda self, x: x[:, 1:-1, ::2], {"aten.slice": 2}),
    ],
)
def test_one_spelling(function: object, expected: dict[str, int]) -> None:
    assert only(check_passes(Fn(function), image())) == expected


def test_chunks_that_do_not_divide_keep_their_sizes() -> None:
    gm = check_passes(Fn(lambda self, x: tuple(x.chunk(3, 1))), image(channels=7))
    assert [node.args[1:] for node in nodes(gm, "aten.slice")] == [(1, 0, 3), (1, 3, 6), (1, 6, 7)]


def test_dimensions_count_from_the_front() -> None:
    gm = check_passes(Fn(lambda self, x: torch.cat([x.mean([-1, -2], keepdim=True)] * 2, -3)), image())
    assert nodes(gm, "aten.mean")[0].args[1] == [2, 3]
    assert nodes(gm, "aten.cat")[0].args[1] == 1


def test_what_depends_on_constants_only_is_computed() -> None:
    def standardised(self: Any, x: Tensor) -> Tensor:
        weight = self.c.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.c.bias)

    gm = check_passes(Fn(standardised, c=nn.Conv2d(4, 8, 3)), image())
    assert only(gm) == {"haste.conv2d": 1}


def test_tensors_made_from_nothing_are_computed() -> None:
    gm = check_passes(Fn(lambda self, x: x + torch.arange(6) * torch.full((6,), 2.0)), image())
    assert only(gm) == {"aten.add": 1}


def test_subtraction_from_a_number() -> None:
    assert only(check_passes(Fn(lambda self, x: 1 - x), image())) == {"aten.mul": 1, "aten.add": 1}
    assert only(check_passes(Fn(lambda self, x: torch.rsub(x, x.exp())), image())) == {"aten.exp": 1, "aten.sub": 1}


def test_parametrized_weights_are_computed() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 3))
    assert only(check_passes(nn.Sequential(conv), image())) == {"haste.conv2d": 1}


def test_random_operators_are_not_computed() -> None:
    gm = canonicalize(capture(Fn(lambda self, x: x + torch.bernoulli(self.p), p=torch.full((6,), 0.5)), (image(),)).gm)
    assert calls(gm)["aten.bernoulli"] == 1


def test_whole_number_clamps_stay() -> None:
    gm = check_passes(Fn(lambda self, x: x.clamp(0, 6)), torch.arange(-5, 10))
    assert only(gm) == {"aten.clamp": 1}


def test_an_operator_has_one_rewrite() -> None:
    themes = [module.REWRITES for module in vars(driver).values() if hasattr(module, "REWRITES")]
    assert len(themes) > 1 and sum(map(len, themes)) == len(set().union(*themes))
