"""Moments that batch norms tell, against the values of networks whose statistics were taken on those very images."""

import pytest
import torch
from torch import Tensor, nn

from haste_compiler.graph.capture import capture
from haste_compiler.graph.nodes import layer_name
from haste_compiler.methods.moments import Moments, channel_moments
from haste_compiler.passes.pipeline import rewrite


class Block(nn.Module):
    """An inverted residual, a join, pooling and a classifier, with a choice of activation."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), activation())
        self.expand = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), activation())
        self.project = nn.Sequential(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.last = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), activation())
        self.join = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.stem(x)
        z = y + self.project(self.expand(y))
        return self.join(torch.cat([y, z], 1)), self.head(self.last(z).mean((2, 3)))


def _trained(model: nn.Module, x: Tensor) -> nn.Module:
    """The model with the statistics of these images, and norms that scale and shift."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            module.momentum = None
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def _inputs_of_layers(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Moments]]:
    """What every convolution and linear layer reads, and the moments that are told of it, by layer."""
    gm = rewrite(capture(model, (x,)))
    moments, values, read = channel_moments(gm), dict[str, Tensor](), dict[str, Moments]()

    class Recorded(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            if n.op == "call_function" and "haste" in str(n.target) and isinstance(n.args[0], torch.fx.Node):
                values[layer_name(n)] = self.env[n.args[0]]
                if n.args[0] in moments:
                    read[layer_name(n)] = moments[n.args[0]]
            return super().run_node(n)

    Recorded(gm).run(x)
    return values, read


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU])
def test_moments_are_those_of_the_values(activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 3, 16, 16)
    values, told = _inputs_of_layers(_trained(Block(activation), x), x)
    assert {"expand.0", "project.0", "join", "last.0", "head"} == set(told)
    for name, (mean, variance) in told.items():
        value = values[name].double().transpose(1, -1).flatten(0, -2) if values[name].dim() == 4 else values[name]
        assert (value.mean(0) - mean).norm() < 0.05 * mean.norm()
        if name != "head":
            assert (value.std(0) - variance.sqrt()).norm() < 0.2 * variance.sqrt().norm()


def test_what_no_norm_tells_is_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1))
    assert channel_moments(rewrite(capture(model.eval(), (torch.randn(1, 3, 12, 12),)))) == {}


def test_maps_behind_a_norm_count() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last((self.norm(self.conv(x)) * 3 + 1).relu())

    x = torch.randn(64, 3, 8, 8)
    values, told = _inputs_of_layers(_trained(Scaled(), x), x)
    assert torch.allclose(told["last"][0], values["last"].double().mean((0, 2, 3)), rtol=0.1, atol=0.2)
