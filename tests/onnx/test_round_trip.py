"""PyTorch's networks, exported to ONNX and read back: equal to the original, in eager PyTorch and compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("onnx", reason="the package onnx is not installed: install the dev extra")

import haste_compiler
from haste_compiler import OnnxNetwork, from_onnx


def export(net: nn.Module, x: Tensor, path: Path, batch: bool = False, dynamo: bool = False) -> OnnxNetwork:
    how: dict[str, Any] = {"opset_version": 17, "dynamic_axes": {"image": {0: "batch"}} if batch else None}
    if dynamo:
        how = {"dynamic_shapes": ({0: torch.export.Dim("batch")},) if batch else None, "verbose": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net.eval(), (x,), str(path), dynamo=dynamo, input_names=["image"], **how)
    return from_onnx(path)


class Plain(nn.Sequential):
    """Convolutions, norms, pooling, a classifier."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.PReLU(8),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * 8 * 8, 10),
            nn.Softmax(1),
        )


class Mobile(nn.Module):
    """A block of MobileNetV3: depthwise, squeeze and excitation, hard swish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.depthwise = nn.Conv2d(16, 16, 5, 1, 2, groups=16, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.project = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        y = F.hardswish(self.norm(self.depthwise(x)))
        y = y * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        x = x + F.relu6(self.project(y))
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    """Down, up by a transposed convolution and by resizing, joined."""

    def __init__(self, mode: str = "bilinear") -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.bottom = nn.Conv2d(16, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 16, 2, 2)
        self.join, self.out = nn.Conv2d(32, 8, 3, padding=1), nn.Conv2d(16, 2, 1)
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.down1(x))
        second = F.relu(self.down2(first))
        deep = self.up(F.relu(self.bottom(second)))
        joined = F.relu(self.join(torch.cat([deep, second], 1)))
        aligned = None if self.mode == "nearest" else False
        return self.out(
            torch.cat([F.interpolate(joined, size=first.shape[2:], mode=self.mode, align_corners=aligned), first], 1)
        )


class Attention(nn.Module):
    """Patches, layer norm, attention, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.norm = nn.LayerNorm(32)
        self.qkv, self.project = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, tokens, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-2, -1) * 8**-0.5, -1)
        x = x + self.project((weights @ v).transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(F.gelu(self.up(x)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "mobile": Mobile,
    "unet": UNet,
    "unet by nearest": lambda: UNet("nearest"),
    "attention": Attention,
}


EXPORTERS = [
    pytest.param(False, id="TorchScript"),
    pytest.param(True, id="dynamo", marks=pytest.mark.skipif(not find_spec("onnxscript"), reason="no onnxscript")),
]
"""Both of PyTorch's."""
BOTH = [(name, False) for name in NETWORKS] + [
    pytest.param(name, True, marks=() if name == "attention" else pytest.mark.slow) for name in NETWORKS
]
"""The newer one takes seconds a network: one of them by default."""


@pytest.mark.parametrize(("name", "dynamo"), BOTH)
def test_eager(name: str, dynamo: bool, tmp_path: Path) -> None:
    net, x = NETWORKS[name](), torch.randn(2, 3, 32, 32)
    network = export(net, x, tmp_path / "net.onnx", dynamo=dynamo)
    torch.testing.assert_close(network(x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_any_batch(name: str, dynamo: bool, tmp_path: Path) -> None:
    net = NETWORKS[name]()
    network = export(net, torch.randn(2, 3, 32, 32), tmp_path / "net.onnx", batch=True, dynamo=dynamo)
    x = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(network(x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_captured_for_any_batch(name: str, tmp_path: Path) -> None:
    net = NETWORKS[name]()
    network = export(net, torch.randn(2, 3, 32, 32), tmp_path / "net.onnx", batch=True)
    dims = ({0: torch.export.Dim("batch", min=2, max=64)},)
    program = torch.export.export(network, (torch.randn(3, 3, 32, 32),), dynamic_shapes=dims)
    x = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(program.module()(x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "unet by nearest" else ()) for name in NETWORKS]
)
def test_compiled(name: str, tmp_path: Path) -> None:
    net, x = NETWORKS[name](), torch.randn(1, 3, 32, 32)
    network = export(net, x, tmp_path / "net.onnx")
    compiled = haste_compiler.compile(network, (x,), config=haste_compiler.HasteConfig(enabled=False), threads=1)
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)


def test_compiled_for_all_batches(tmp_path: Path) -> None:
    net = Plain()
    network = export(net, torch.randn(2, 3, 32, 32), tmp_path / "net.onnx", batch=True)
    compiled = haste_compiler.compile(network, (torch.randn(2, 3, 32, 32),), threads=1, dynamic=True)
    for batch in (1, 3):
        x = torch.randn(batch, 3, 32, 32)
        torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dynamo", EXPORTERS)
def test_layers_are_called_as_in_the_original(dynamo: bool, tmp_path: Path) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3)
            self.blocks = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), Block())

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(self.stem(x))

    net = Net()
    network = export(net, torch.randn(1, 3, 32, 32), tmp_path / "net.onnx", dynamo=dynamo)
    assert set(network.layer_names) == {"stem", "blocks.0", "blocks.2.conv"}


@pytest.mark.slow
def test_with_torch_compile(tmp_path: Path) -> None:
    net, x = Plain(), torch.randn(1, 3, 32, 32)
    network = export(net, x, tmp_path / "net.onnx")
    torch.testing.assert_close(torch.compile(network, backend="haste")(x), net(x), rtol=1e-4, atol=1e-5)


def test_validated(tmp_path: Path) -> None:
    net, x = Plain(), torch.randn(1, 3, 32, 32)
    network = export(net, x, tmp_path / "net.onnx")
    compiled = haste_compiler.compile(network, (x,), threads=1)
    report = haste_compiler.validate(network, compiled, [(x,)])
    assert {layer.name for layer in report.layers} >= {layer for layer in network.layer_names if layer}
