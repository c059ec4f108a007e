"""Operators around the convolutions that TVM translates wrongly or not at all, compiled against eager PyTorch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import haste_compiler
from haste_compiler import HasteConfig
from tests.passes.checking import Fn, assert_same


def image() -> Tensor:
    return torch.randn(2, 6, 8, 10)


def compiled(function: Any, *inputs: Tensor, **parts: Any) -> Any:
    return haste_compiler.compile(Fn(function, **parts).eval(), inputs, config=HasteConfig(enabled=False), cache=False)


GROUPS: dict[str, Any] = {
    "negative positions": lambda m, x: (x[:, -1], x[..., -3:-1], x[:, [-1, 0]], x[-1, :, -2], m.conv(x)[:, -1]),
    "alpha": lambda m, x: (
        torch.add(x, x.abs(), alpha=3),
        torch.sub(x, 1.0, alpha=0.5),
        torch.rsub(x, 2.0, alpha=3.0),
        torch.rsub(x, x.abs(), alpha=2),
        torch.add(m.conv(x), x[:, :, 1:-1, 1:-1], alpha=2),
    ),
    "mixed dtypes": lambda m, x: (
        (x * 10).long() / 4,
        (x * 10).int() * 2.5,
        (x * 10).int().permute(0, 3, 1, 2) + 1,
        m.conv(x) + (m.conv(x) * 10).long(),
        x + (x > 0),
    ),
    "norms without weights": lambda m, x: (
        F.instance_norm(x, eps=0.1),
        F.instance_norm(x, torch.full((6,), 0.2), torch.full((6,), 3.0), use_input_stats=False),
        F.group_norm(x, 3, eps=0.1),
        F.layer_norm(x, (10,), eps=0.1),
    ),
    "activations": lambda m, x: (
        F.celu(x, 0.7),
        F.mish(x),
        F.glu(x, 1),
        F.threshold(x, 0.1, -7.0),
        F.hardshrink(x, 0.3),
        x.clip(min=0.1),
    ),
    "choices": lambda m, x: (
        torch.where(x > 0, x, 0.0),
        torch.where(x > 0, 1.0, x),
        torch.addcmul(x, x, x, value=0.3),
        torch.addcdiv(x, x, x.abs() + 1, value=0.3),
        x.diff(dim=2),
    ),
    "shuffles": lambda m, x: (F.pixel_shuffle(x[:, :4], 2), F.pixel_unshuffle(x, 2)),
    "largest": lambda m, x: (x.amax((2, 3)), x.amax((-1, -2), keepdim=True), F.adaptive_max_pool2d(x, (4, 5))),
    "attention": lambda m, x: (
        F.scaled_dot_product_attention(x, x, x, scale=0.1),
        F.scaled_dot_product_attention(m.conv(x), x[..., 1:-1], x[..., :5]),
        F.scaled_dot_product_attention(x, x, x, attn_mask=5 * x[:1, :1, :, 2:]),
        F.scaled_dot_product_attention(x, x, x, is_causal=True),
    ),
    "products": lambda m, x: (
        x @ x.transpose(2, 3),
        m.conv(x) @ x,
        m.conv(x).transpose(2, 3) @ m.conv(x),
        x @ x[0, 0].t(),
        torch.bmm(x[0], x[1].transpose(1, 2)),
        x[:, 0, 0] @ x[0, 0].t(),
    ),
    "softmax": lambda m, x: [y.softmax(dim) for y in (x, m.conv(x)) for dim in range(4)],
    "one filter": lambda m, x: F.linear(x, m.filter),
}


@pytest.mark.parametrize("group", GROUPS)
def test_operators(group: str) -> None:
    x, parts = image(), {"conv": nn.Conv2d(6, 6, 3), "filter": torch.randn(10)}
    actual = compiled(GROUPS[group], x, **parts)(x.clone())
    assert_same(actual, Fn(GROUPS[group], **parts)(x), 1e-5)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
def test_resizing(mode: str) -> None:
    def function(m: Any, x: Tensor) -> Any:
        smooth = {} if mode.startswith("nearest") else {"align_corners": False}
        resized = [
            F.interpolate(x, scale_factor=1.7, mode=mode, **smooth),
            F.interpolate(m.conv(x), size=(5, 4), mode=mode, **smooth),
            F.interpolate(m.conv(x), scale_factor=2, mode=mode, **smooth),
            F.interpolate(x, scale_factor=(0.4, 3.0), mode=mode, recompute_scale_factor=True, **smooth),
        ]
        if smooth:
            resized.append(F.interpolate(x, size=(11, 13), mode=mode, align_corners=True))
            resized.append(F.interpolate(x, size=(3, 4), mode=mode, antialias=True))
        return resized

    x, conv = image(), nn.Conv2d(6, 6, 3)
    assert_same(compiled(function, x, conv=conv)(x), Fn(function, conv=conv)(x), 1e-5)


def test_writes_to_parts_of_a_tensor() -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x)
        y[:, 0] = 3.0
        y[:, 1, 2:4] = 5.0
        y[:, 2:4] = x[:, :2, 1:-1, 1:-1]
        y[:, -1].mul_(2)
        return y.clamp_(-1, 4) + 1

    x, conv = image(), nn.Conv2d(6, 6, 3)
    assert_same(compiled(function, x, conv=conv)(x), Fn(function, conv=conv)(x), 1e-5)


def test_outputs_are_the_callers_own() -> None:
    def function(m: Any, x: Tensor) -> Any:
        return x, x.view(2, -1), m.constant, m.conv(x)

    x, constant = image(), torch.arange(4.0)
    network = compiled(function, x, constant=constant, conv=nn.Conv2d(6, 6, 3))
    before = [leaf.clone() for leaf in network(x)]
    kept = x.clone()
    for leaf in network(x):
        leaf.zero_()
    assert torch.equal(x, kept)
    assert all(map(torch.equal, network(x), before))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.max_pool2d(x, 2, return_indices=True),
        lambda m, x: F.batch_norm(x, None, None, training=True),
        lambda m, x: x[:, m.index, m.index],
        lambda m, x: torch.native_layer_norm(x, [10], None, None, 1e-5),
    ],
    ids=["positions of maxima", "statistics of the batch", "indices", "several results"],
)
def test_what_tvm_translates_wrongly_is_right(function: Any) -> None:
    x, index = image(), torch.tensor([2, 0, 1])
    assert_same(compiled(function, x, index=index)(x), Fn(function, index=index)(x), 1e-5)
