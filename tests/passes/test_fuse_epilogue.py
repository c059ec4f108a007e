import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from haste_compiler.graph.nodes import is_tensor, shape_of
from haste_compiler.ops.activation import apply_activation
from tests.passes.checking import Fn, calls, check_passes, nodes


def image(channels: int = 4, side: int = 6, batch: int = 2) -> Tensor:
    return 3 * torch.randn(batch, channels, side, side)


ACTIVATIONS = [
    (nn.ReLU(inplace=True), "relu"),
    (nn.ReLU6(), "relu6"),
    (nn.Hardtanh(0, 6), "relu6"),
    (nn.Hardtanh(-2, 0.5), "clamp:-2.0:0.5"),
    (nn.Hardswish(), "hardswish"),
    (nn.Hardsigmoid(), "hardsigmoid"),
    (nn.SiLU(), "silu"),
    (nn.Sigmoid(), "sigmoid"),
    (nn.GELU(), "gelu"),
    (nn.Tanh(), "tanh"),
    (nn.LeakyReLU(), "leaky_relu:0.01"),
    (nn.LeakyReLU(0.25, inplace=True), "leaky_relu:0.25"),
    (nn.ELU(), "elu:1.0"),
    (nn.ELU(0.5), "elu:0.5"),
]


@pytest.mark.parametrize(("module", "name"), ACTIVATIONS)
def test_activations(module: nn.Module, name: str) -> None:
    gm = check_passes(nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), module, nn.Linear(6, 3), module), image())
    assert dict(calls(gm)) == {"haste.conv2d": 1, "haste.linear": 1}
    assert nodes(gm, "haste.conv2d")[0].args[-1] == name == nodes(gm, "haste.linear")[0].args[-1]
    x = 4 * torch.randn(100)
    assert torch.allclose(apply_activation(x, name), module(x.clone()), atol=1e-6)


@pytest.mark.parametrize("module", [nn.GELU(approximate="tanh"), nn.SELU(), nn.Mish(), nn.Softplus(), nn.PReLU()])
def test_other_activations_stay_apart(module: nn.Module) -> None:
    gm = check_passes(nn.Sequential(nn.Conv2d(4, 5, 3), module), image())
    assert nodes(gm, "haste.conv2d")[0].args[-1] == "none" and len(calls(gm)) > 1


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: F.relu(self.a(x) + x),
        lambda self, x: F.relu(x + self.a(x)),
        lambda self, x: F.relu(self.a(x).add_(x)),
        lambda self, x: (y := self.a(x), r := x * 2, F.relu(y + r))[-1],
        lambda self, x: F.relu(self.l(x) + x),
        lambda self, x: F.relu(x + self.l(x)),
    ],
)
def test_residual(function: object) -> None:
    gm = check_passes(Fn(function, a=nn.Conv2d(4, 4, 3, padding=1), l=nn.Linear(6, 6)), image())
    assert "aten.add" not in calls(gm) and "aten.relu" not in calls(gm)
    (layer,) = nodes(gm, "haste.conv2d") + nodes(gm, "haste.linear")
    assert layer.args[3] is not None and layer.args[-1] == "relu"


def test_later_of_two_layers_takes_the_earlier_ones_result() -> None:
    parts = {"a": nn.Conv2d(4, 4, 3, padding=1), "b": nn.Conv2d(4, 4, 1)}
    for function in (
        lambda self, x: (y := self.a(x), F.relu(y + self.b(x)))[-1],
        lambda self, x: (y := self.a(x), F.relu(self.b(x) + y))[-1],
    ):
        gm = check_passes(Fn(function, **parts), image())
        first, second = nodes(gm, "haste.conv2d")
        assert dict(calls(gm)) == {"haste.conv2d": 2}
        assert first.meta["layer"] == "a" and first.args[-1] == "none" and first.args[3] is None
        assert second.meta["layer"] == "b" and second.args[-1] == "relu" and second.args[3] is first


def test_earlier_layer_is_used_where_the_later_has_its_epilogue() -> None:
    function = lambda self, x: (y := self.a(x), y + F.relu(self.b(x)))[-1]  # noqa: E731
    gm = check_passes(Fn(function, a=nn.Conv2d(4, 4, 3, padding=1), b=nn.Conv2d(4, 4, 1)), image())
    first, second = nodes(gm, "haste.conv2d")
    assert (first.meta["layer"], second.meta["layer"]) == ("b", "a") and second.args[3] is first


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda self, x: (y := self.a(x), F.relu(y) + y)[-1], {"aten.relu": 1, "aten.add": 1}),
        (lambda self, x: (y := self.a(x), y + y)[-1], {"aten.add": 1}),
        (lambda self, x: (y := self.a(x), y + x, y)[1:], {"aten.add": 1}),
        (lambda self, x: self.a(x) + x[:1], {"aten.add": 1}),
        (lambda self, x: self.a(x) + x[:, :1], {"aten.add": 1}),
        (lambda self, x: self.a(x[:1]) + x, {"aten.add": 1}),
        (lambda self, x: F.relu(self.a(x)) + x, {"aten.add": 1}),
        (lambda self, x: self.a(x) + x.double(), {"aten.add": 1}),
        (lambda self, x: F.relu(F.relu6(self.a(x))), {"aten.relu": 1}),
        (lambda self, x: self.a(x) + x + x, {"aten.add": 1}),
    ],
)
def test_what_is_not_fused(function: object, left: dict[str, int]) -> None:
    gm = check_passes(Fn(function, a=nn.Conv2d(4, 4, 3, padding=1)), image())
    assert left.items() <= calls(gm).items()


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: self.l(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) + x,
        lambda self, x: x + self.l(x.permute(0, 2, 3, 1)).permute(0, -1, -3, -2),
        lambda self, x: (y := self.l(x.permute(0, 2, 3, 1)), r := 2 * x, y.permute(0, 3, 1, 2) + r)[-1],
    ],
)
def test_residual_of_a_linear_layer_over_channels(function: object) -> None:
    gm = check_passes(Fn(function, l=nn.Linear(4, 4)), image())
    (layer,) = nodes(gm, "haste.linear")
    assert "aten.add" not in calls(gm) and is_tensor(layer.args[3]) and shape_of(layer.args[3]) == (2, 6, 6, 4)


def test_of_two_linear_layers_over_channels_the_later_takes_the_earlier_ones_result() -> None:
    function = lambda self, x: sum(part(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for part in (self.a, self.b))  # noqa: E731
    gm = check_passes(Fn(function, a=nn.Linear(4, 5), b=nn.Linear(4, 5)), image())
    first, second = nodes(gm, "haste.linear")
    (taken,) = (user for node in first.users for user in node.users)
    assert "aten.add" not in calls(gm) and first.args[3] is None and second.args[3] is taken


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: (y := self.l(x).permute(0, 3, 1, 2), y + x, y)[1:],
        lambda self, x: (y := self.l(x), y.permute(0, 3, 1, 2) + x, y)[1:],
        lambda self, x: self.l(x).permute(0, 3, 1, 2) + x[:1],
        lambda self, x: self.l(x).permute(0, 1, 3, 2) + x,
        lambda self, x: F.relu(self.l(x)).permute(0, 3, 1, 2) + x,
    ],
)
def test_what_is_not_fused_behind_a_permute(function: object) -> None:
    gm = check_passes(Fn(function, l=nn.Linear(6, 6)), image(6))
    assert calls(gm)["aten.add"] == 1 and nodes(gm, "haste.linear")[0].args[3] is None
