"""Which layers have products, of which kind, and how many weights."""

import torch
from torch import Tensor, nn

from haste_compiler.energy.layers import products
from haste_compiler.validation.macs import dense_macs


class Kinds(nn.Module):
    """One layer of each kind, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.pointwise = nn.Conv2d(8, 8, 1, bias=False)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2, bias=False)
        self.up = nn.ConvTranspose2d(8, 1, 2, 2, bias=False)
        self.up_depthwise = nn.ConvTranspose2d(8, 8, 2, 2, groups=8, bias=False)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.depthwise(self.norm(self.stem(x)))
        y = self.grouped(self.pointwise(self.pointwise(y)))
        tokens = y.flatten(2)
        return self.up(y), self.head(self.up_depthwise(y).mean((2, 3))), tokens @ tokens.mT


def test_kinds_multiply_adds_and_weights() -> None:
    model, x = Kinds().eval(), torch.randn(1, 3, 6, 6)
    found = products(model, (x,))
    by_name = {layer.name: layer for layer in found.layers}
    assert {name: layer.kind for name, layer in by_name.items()} == {
        "stem": "convolution",
        "depthwise": "depthwise",
        "pointwise": "pointwise",
        "pointwise#2": "pointwise",
        "grouped": "pointwise",
        "up": "convolution",
        "up_depthwise": "depthwise",
        "head": "linear",
        "matmul": "matmul",
    }
    assert by_name["stem"].macs == 36 * 8 * 27 and by_name["stem"].weights == 8 * 27
    assert by_name["depthwise"].weights == 8 * 9
    # The weights of a layer that is called again are stored once.
    assert (by_name["pointwise"].weights, by_name["pointwise#2"].weights) == (64, 0)
    assert found.macs == dense_macs(model, (x,))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert found.others == parameters - sum(layer.weights for layer in found.layers) == 8 + 16 + 4


def test_filters_that_are_values_are_not_stored() -> None:
    class Dynamic(nn.Module):
        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            return torch.nn.functional.conv2d(x, w)

    found = products(Dynamic(), (torch.randn(1, 4, 5, 5), torch.randn(6, 4, 1, 1)))
    assert [(layer.kind, layer.macs, layer.weights) for layer in found.layers] == [("pointwise", 25 * 24, 0)]
