"""torchvision's networks, compiled for a card and run emulated, against PyTorch."""

import pytest
import torch

import haste_compiler
from haste_compiler import HasteConfig
from tests import zoo
from tests.codegen.cuda import emulator

pytestmark = pytest.mark.slow

SIDE = 75
"""Smallest side that inception_v3 takes."""


@pytest.mark.parametrize("name", zoo.ZOO)
def test_dense_networks_compute_what_pytorch_does(name: str) -> None:
    emulator.require()
    model, x = zoo.zoo(name, SIDE), zoo.example_input(name, 1, SIDE)
    compiled = haste_compiler.compile(model, (x,), target="cuda", config=HasteConfig(enabled=False), precision="fp32")
    y, wanted = compiled(x), model(x)
    assert torch.isfinite(y).all()
    assert (y - wanted).norm() <= 1e-4 * wanted.norm()
