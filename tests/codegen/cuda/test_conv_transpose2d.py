"""Transposed convolutions compiled for a card and run emulated."""

import pytest
import torch
from torch import Tensor, nn

import haste_compiler
from haste_compiler import HasteConfig
from tests.codegen.cuda import emulator


class Network(nn.Module):
    """One pixel, phases of several taps and of none, uneven ones, and one that reads a part of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.ConvTranspose2d(5, 8, 5)
        self.twice = nn.ConvTranspose2d(8, 8, 3, (2, 1), 1)
        self.cut = nn.ConvTranspose2d(8, 4, (1, 3), (2, 1), (1, 3), groups=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.start(x).relu())
        return nn.functional.leaky_relu(self.cut(torch.relu(self.twice(x) + x.repeat(1, 1, 2, 1)[:, :, :17])), 0.2)


def test_a_network_computes_what_pytorch_does() -> None:
    emulator.require()
    model, x = Network().eval(), torch.randn(2, 5, 1, 1)
    compiled = haste_compiler.compile(model, (x,), target="cuda", config=HasteConfig(enabled=False), precision="fp32")
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)
    assert set(compiled.profile(x)) >= {"start", "twice", "cut"}


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_it_compiles_for_the_tensor_cores(precision: str) -> None:
    model, x = nn.ConvTranspose2d(16, 16, 4, 2, 1).eval(), torch.randn(1, 16, 5, 6)
    compiled = haste_compiler.compile(model, (x,), target="cuda -arch=sm_90", precision=precision)
    assert [layer.eligible for layer in compiled.layers] == [False]
