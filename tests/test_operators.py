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
        # A row whose mask leaves it nothing is zero.
        F.scaled_dot_product_attention(x, x, x, attn_mask=torch.where(x[0, 0, :, :8] > 1, -torch.inf, 0.0).detach()),
        F.scaled_dot_product_attention(x, x, x, attn_mask=torch.full((8, 8), -torch.inf)),
    ),
    "rolls": lambda m, x: (
        x.roll((-3, 2), (2, 3)),
        x.roll((1, 1), (1, -1)) + x,
        x.roll(5, 2),
        x.roll((1, -1), (3, 3)),
        x.roll(8, 2),
    ),
    "powers": lambda m, x: [
        y.pow(exponent) for y in (x, x.abs(), m.conv(x)) for exponent in (0, 0.5, 1, 1.5, 2, 3, -0.5, -1, -2)
    ],
    "grids": lambda m, x: (
        torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(10.0), indexing="ij")) + x[:, :2],
        x.narrow(2, 1, 4) - x.narrow(2, -4, 4),
    ),
    "large joins": lambda m, x: (
        torch.cat((x.expand(20, 2, 6, 8, 10), x.expand(20, 2, 6, 8, 10) + 1), 3),
        torch.cat((x.repeat(1, 1, 9, 9), x.repeat(1, 1, 9, 9).sigmoid()), 0),
        torch.cat(
            [m.conv(x).permute(0, 2, 3, 1).repeat(1, 9, 9, 1), x.permute(0, 2, 3, 1)[:, :6, :8].repeat(1, 9, 9, 1)], 3
        ),
    ),
    "means": lambda m, x: (
        x.mean((2, 3)).mean(1, keepdim=True),
        x.mean((1, 2, 3)),
        m.conv(x).mean(1),
        x.mean((1, 3)),
        x.mean(0),
        x.repeat(1, 1, 40, 40).mean((1, 2, 3)),
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
    "deviations": lambda m, x: (
        x[0, :, 0, 0].std(),
        *(torch.std(x, 1, correction=correction) for correction in (0, 1, 2)),
        *torch.std_mean(x, (2, 3)),
        *torch.var_mean(x, (0, -1), keepdim=True),
        x.logsumexp((1, 2)),
        x[:, :0].mean(1),
    ),
    "cross entropy": lambda m, x: [
        F.cross_entropy(y, target, reduction=reduction, label_smoothing=smoothing)
        for y, target in ((x.mean((2, 3)), m.classes), (x, m.classes[:, None, None].expand(2, 8, 10)))
        for reduction in ("none", "mean", "sum")
        for smoothing in (0.0, 0.1)
    ],
    "attention of other ranks": lambda m, x: (
        F.scaled_dot_product_attention(x[0, 0], x[0, 1], x[0, 2]),
        F.scaled_dot_product_attention(x, x[:, :2] + 1, x[:, :2], enable_gqa=True),
        F.scaled_dot_product_attention(x[0], x[0], x[0], is_causal=True, scale=0.3),
    ),
    "pooling of other ranks": lambda m, x: (
        F.avg_pool2d(x[0], 2, divisor_override=3),
        F.avg_pool3d(x, 2, divisor_override=3),
        F.avg_pool3d(x, (2, 3, 3), 2, ceil_mode=True),
        F.max_pool1d(x[0], 3),
        F.adaptive_avg_pool3d(x, (2, 3, 4)),
        F.lp_pool2d(x.abs(), 2, 2),
    ),
    "not a number": lambda m, x: [
        function(torch.where(x > 0.5, torch.nan, x))
        for function in (
            lambda y: y.clamp(min=0.1),
            lambda y: y.clamp(max=0.1),
            lambda y: torch.maximum(y, torch.tensor(0.1)),
            lambda y: torch.minimum(y, x),
            lambda y: y.argmax(1).float(),
            lambda y: y.amax(1),
            F.relu,
            F.relu6,
            F.hardswish,
            lambda y: F.max_pool2d(y, 2),
        )
    ],
    "scalars": lambda m, x: (x.sum().relu(), x.sum().sigmoid() * x.mean(), x[0, 0, 0, 0].exp(), -x.amax()),
    "orders": lambda m, x: (
        *x.max(1),
        *x.min(2),
        x.amin((0, 2)),
        *x.topk(3, 1),
        *x.sort(2, descending=True),
        x.cumsum(2),
        x.argsort(1),
        *x.kthvalue(2, 1),
        x.median(3)[0],
    ),
    "moves": lambda m, x: (
        x.movedim(1, -1),
        x.narrow(2, 1, 3),
        torch.hstack((x, x)),
        x.roll((1, 2), (2, 3)),
        torch.zeros_like(x).scatter(1, x.argsort(1), x),
        x.gather(2, x.argsort(2)),
        x.index_select(3, m.classes),
        x.take_along_dim(x.argmax(1, keepdim=True), 1),
    ),
    "truth values": lambda m, x: (
        x.masked_fill(x > 0, -torch.inf),
        ((x > 0) * (x < 1)).float(),
        (x > 0) & ~(x < 1) | (x == 0),
        (x > 0).any(1),
        (x > 0).sum(1),
        x.isnan().logical_not(),
    ),
    "blocks": lambda m, x: (
        F.unfold(x, 3, padding=1),
        F.fold(F.unfold(x, 3), (8, 10), 3),
        F.grid_sample(x, m.grid, align_corners=False),
        F.grid_sample(x, m.grid, mode="nearest", padding_mode="border", align_corners=True),
        F.affine_grid(m.theta, [2, 6, 4, 5], align_corners=False),
    ),
    "other convolutions": lambda m, x: (
        F.conv1d(x[0], m.filter1, padding="same"),
        F.conv3d(x[:, None], m.filter3, padding="same"),
        F.conv_transpose1d(x[0], m.filter1.transpose(0, 1), stride=2, output_padding=1),
        F.conv_transpose3d(x[:, None], m.filter3.transpose(0, 1), stride=2),
        m.conv(x[0]),
        F.conv2d(x, m.conv.weight + 0 * x.mean(), None, 2, "valid"),
    ),
    "norms of planes": lambda m, x: (
        x.norm(2, (2, 3)),
        m.conv(x).norm(2, (2, 3), keepdim=True),
        torch.linalg.vector_norm(x, 2, (1, 2), keepdim=True),
        torch.linalg.vector_norm(m.conv(x).permute(0, 2, 3, 1), dim=(-2, -3)),
        torch.linalg.vector_norm(x, 1, (1, 2)),
    ),
    "gelu spelled out": lambda m, x: (
        m.conv(x) * 0.5 * (1 + torch.erf(m.conv(x) / 2**0.5)),
        *(
            spelled(y)
            for y in (x, m.conv(x))
            for spelled in (
                lambda y: y * (1.0 + torch.erf(y / 1.4142135381698608)) * 0.5,
                lambda y: 0.5 * (y * (torch.erf(y * 0.5**0.5) + 1)),
                lambda y: (y * 0.5) * (1 + torch.erf(y / m.root)),
                lambda y: y * (1 + torch.erf(y / 1.5)) * 0.5,
                lambda y: y * (1 + torch.erf(y / 2**0.5)) * 0.4,
                lambda y: y.abs() * (1 + torch.erf(y / 2**0.5)) * 0.5,
            )
        ),
    ),
    "padding with numbers": lambda m, x: (
        F.pad(m.conv(x), (1, 2, 0, 3), value=-torch.inf),
        F.pad(m.conv(x), (1, -2), value=0.5),
        F.pad(m.conv(x), (-1, 0, -1, 2)),
        F.max_pool2d(F.pad(m.conv(x), (0, 1, 0, 1), value=-torch.inf), 2, 1),
        F.pad(x, (1, 1, 1, 1, 0, 2), value=3),
        torch.constant_pad_nd(m.conv(x), (0, 1), 2.0),
    ),
    "pointwise in channels last": lambda m, x: [
        function(m.conv(x))
        for function in (
            torch.erf,
            torch.exp,
            torch.abs,
            torch.neg,
            torch.square,
            torch.floor,
            lambda y: y.abs().sqrt(),
        )
    ],
    "means of large maps": lambda m, x: (
        F.adaptive_avg_pool2d(m.large, 1),
        m.large.mean((2, 3)),
        F.avg_pool2d(m.large, 16),
    ),
    "norms by what is computed": lambda m, x: (
        F.batch_norm(x, x.mean((0, 2, 3)), x.var((0, 2, 3)) + 0.1, x[0, :, 0, 0], x[1, :, 0, 0]),
        F.batch_norm(x, None, None, training=True),
        F.rms_norm(x, (10,)),
        F.local_response_norm(x, 3),
        F.normalize(x, dim=1),
        F.layer_norm(x, (6, 8, 10), eps=0.1),
    ),
}


@pytest.mark.parametrize("group", GROUPS)
def test_operators(group: str) -> None:
    x, parts = image(), {"conv": nn.Conv2d(6, 6, 3), "filter": torch.randn(10), "classes": torch.tensor([4, 1])}
    parts |= {"root": torch.tensor(2.0).sqrt(), "large": torch.rand(1, 3, 64, 48) + 7}
    parts |= {"grid": torch.rand(2, 4, 5, 2) * 2 - 1, "theta": torch.randn(2, 2, 3)}
    parts |= {"filter1": torch.randn(6, 8, 3)[:, :8], "filter3": torch.randn(4, 1, 3, 3, 3)}
    actual = compiled(GROUPS[group], x, **parts)(x.clone())
    assert_same(actual, Fn(GROUPS[group], **parts)(x), 1e-5)


@pytest.mark.parametrize(
    ("function", "scale"),
    [
        (torch.log1p, 1e-6),
        (torch.expm1, 1e-7),
        (torch.atanh, 1e-6),
        (torch.asinh, 1e-6),
        (torch.tanh, 1e-5),
        (torch.sin, 1e-6),
        (F.softplus, 40.0),
        (lambda x: F.softplus(-x.abs()), 30.0),
        (F.logsigmoid, 30.0),
        (F.elu, 1e-6),
        (F.selu, 1e-6),
        (torch.sigmoid, 60.0),
        (torch.erf, 1e-6),
    ],
)
def test_functions_near_their_limits(function: Any, scale: float) -> None:
    """Digit by digit: small results are no excuse."""
    x = image() * scale
    found, expected = compiled(lambda m, x: function(x), x)(x), function(x.double())
    torch.testing.assert_close(found.double(), expected, rtol=2e-6 if scale < 1 else 1e-5, atol=1e-38)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("shape", [(2, 6, 8, 10), (1, 6, 40, 37), (3, 6, 1, 2)])
def test_norms_of_maps_far_from_zero_keep_their_digits(groups: int, shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(shape) + 1000 * torch.arange(1.0, 7)[:, None, None], torch.rand(6) + 0.5

    def function(m: Any, x: Tensor) -> Tensor:
        weight = m.weight.to(x.dtype)
        return F.group_norm(x, groups, weight, weight - 1).relu()

    found, expected = compiled(function, x, weight=weight)(x), Fn(function, weight=weight)(x.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_white_page_through_instance_norm() -> None:
    layers = [nn.ReflectionPad2d(1), nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)]
    model, x = nn.Sequential(*layers).eval(), torch.full((1, 3, 32, 32), 255.0)
    found = haste_compiler.compile(model, (x,), config=HasteConfig(enabled=False))(x)
    torch.testing.assert_close(found.double(), model.double()(x.double()), rtol=1e-5, atol=1e-5)


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
