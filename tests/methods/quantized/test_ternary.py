"""Networks with ternary weights: what is taken for them, what is computed, and what files hold."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import haste_compiler
from haste_compiler import CompiledModule, QuantizedConfig
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.target import machine_of, parse_target
from haste_compiler.cost.pricing import Pricing
from haste_compiler.graph.capture import capture
from haste_compiler.graph.geometry import row_geometry
from haste_compiler.methods.layers import conv_layers
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.methods.quantized.algorithm import Algorithm
from haste_compiler.methods.quantized.cpu.cost import seconds
from haste_compiler.methods.quantized.ternary import ternary_filters
from haste_compiler.methods.quantized.weights import quantize_filters, quantize_for_narrow
from haste_compiler.prom.ternary import ternarized
from haste_compiler.testing.layers import check_layers
from tests.methods.quantized.test_rewrite import EVERYTHING
from tests.without_torch import NO_TORCH

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Block(nn.Module):
    """1×1 convolutions around a depthwise one, a 3×3 one, and a linear layer, all of ternary weights but the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand, self.norm = nn.Conv2d(3, 40, 3), nn.Conv2d(40, 300, 1, bias=False), nn.BatchNorm2d(300)
        self.depthwise, self.project = nn.Conv2d(300, 300, 3, 2, 1, groups=300), nn.Conv2d(300, 40, 1)
        self.square, self.head = nn.Conv2d(40, 40, 3, padding=1), nn.Linear(40, 70)
        for layer in (self.expand, self.project, self.square, self.head):
            layer.weight.data = ternarized(layer.weight.data)
        self.norm.weight.data.uniform_(-1, 2)
        nn.init.uniform_(self.norm.get_buffer("running_var"), 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm(self.expand(torch.relu(self.stem(x)))))
        x = self.project(F.relu6(self.depthwise(x)))
        return self.head(torch.relu(self.square(x) + x).mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Block().eval()


@pytest.fixture(scope="module")
def compiled(model: nn.Module) -> CompiledModule:
    return haste_compiler.compile(model, (IMAGES,), config=EVERYTHING.replace(winograd=0))


def test_three_values_of_an_output_channel_are_found() -> None:
    torch.manual_seed(0)
    weight = ternarized(torch.randn(6, 9, 1, 1) * torch.logspace(-6, 6, 6)[:, None, None, None])
    weight[3] = 0
    found = ternary_filters(weight)
    assert found is not None
    integers, scale = found
    assert integers.dtype == torch.int8 and integers.unique().tolist() == [-1, 0, 1] and scale.isfinite().all()
    assert torch.equal(integers.float() * scale[:, None, None, None], weight)


def test_sizes_may_differ_in_the_last_place_and_no_more() -> None:
    weight = torch.tensor([[0.3, -0.3, 0.0]])
    near = weight.clone()
    for _ in range(4):
        near[0, 0] = torch.nextafter(near[0, 0], torch.tensor(0.0))
    found = ternary_filters(near)
    assert found is not None and torch.equal(found[1], weight[:, 0])
    for other in (0.3 * (1 - 1e-6), 0.15, float("nan"), float("inf")):
        near[0, 0] = other
        assert ternary_filters(near) is None


@pytest.mark.parametrize("scale", [0.0123, 1.7, 3e-5])
def test_weights_on_a_grid_of_8_bits_keep_their_integers(scale: float) -> None:
    torch.manual_seed(0)
    integers = torch.randint(-127, 128, (20, 30, 1, 1))
    integers[:, 0] = 127
    weight = integers.float() * (torch.rand(20, 1, 1, 1) * scale)
    assert ternary_filters(weight) is None
    assert torch.equal(quantize_filters(weight)[0], integers.to(torch.int8))
    # Of inputs of 7 bits where no scale has to grow.
    small = torch.where(integers.abs() == 127, integers, integers % 40)
    kept = quantize_for_narrow(small.float() * scale, row_geometry(30, 20, 4))[0]
    assert torch.equal(kept, small.to(torch.int8))


def test_layers_say_that_they_are_ternary(compiled: CompiledModule) -> None:
    reasons = {layer.name: layer.reason for layer in compiled.layers}
    assert [name for name, reason in reasons.items() if reason == "int8 by ternary weights"] == [
        "expand",
        "project",
        "square",
        "head",
    ]
    assert reasons["stem"] == "int8" and "int8 by ternary weights" in str(compiled.explain())


def test_every_layer_computes_what_its_operator_does(model: nn.Module, compiled: CompiledModule) -> None:
    assert not [each for each in check_layers(model, compiled, (IMAGES,)) if each.wrong]
    expected = model(IMAGES)
    assert (compiled(IMAGES) - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(
    ("target", "max_error", "chosen"),
    [
        ("llvm -mcpu=haswell", 0.006, "ternary"),
        ("llvm -mcpu=haswell", None, "fastest"),
        ("llvm -mcpu=cascadelake", None, "fastest"),
    ],
)
def test_3x3_layers_are_ternary_or_by_tiles_whichever_is_faster_within_the_error(
    target: str, max_error: float | None, chosen: str
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(128, 128, 3, padding=1)
    layer.weight.data = ternarized(layer.weight.data)
    model, inputs = nn.Sequential(nn.ReLU(), layer, nn.ReLU()).eval(), (torch.randn(1, 128, 28, 28),)
    machine, config = machine_of(parse_target(target), 1), QuantizedConfig(max_error=max_error)
    gm = run_passes(capture(model, inputs), config, predict=Pricing(machine, inputs))
    (found,) = conv_layers(gm, config)
    geometry = found.geometry
    assert geometry is not None and found.setting is not None and isinstance(machine, Cpu)
    tried = [Algorithm(0, 8, True), *(Algorithm(size, bits) for size in (2, 4) for bits in (8, 7))]
    fastest = min(tried, key=lambda each: seconds(machine, geometry, 1, each))
    assert Algorithm.of(found.setting) == (fastest if chosen == "fastest" else Algorithm(0, 8, True))


WITHOUT_TORCH = f"""{NO_TORCH}
import numpy as np
import haste_compiler

data = np.load(sys.argv[2])
assert np.array_equal(haste_compiler.load(sys.argv[1])(data["x"]), data["y"]), "other bits"
print("torch" in sys.modules)
"""


def test_files_hold_2_bits_a_weight_and_give_the_same_bits(compiled: CompiledModule, tmp_path: Path) -> None:
    path, data, y = tmp_path / "net.haste", tmp_path / "data.npz", compiled(IMAGES)
    compiled.save(path)
    assert torch.equal(haste_compiler.load(path)(IMAGES), y)
    np.savez(data, x=IMAGES.numpy(), y=y.numpy())
    command = [sys.executable, "-c", WITHOUT_TORCH, str(path), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.split()[-1] == "False", done.stderr
    with zipfile.ZipFile(path) as archive:
        shapes = json.loads(archive.read("manifest.json"))["ternary"].values()
    weights = [40 * 300, 300 * 40, 40 * 40 * 9, 40 * 70]
    # Tiles of output channels, and groups of values, are filled up with zeros.
    assert len(shapes) == 4 and sum(weights) <= sum(shape[0] for shape in shapes) < 1.3 * sum(weights)


def test_a_pointwise_layer_takes_2_bits_a_weight_and_scales(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(256, 512, 1), torch.randn(1, 256, 2, 2)
    layer.weight.data = ternarized(layer.weight.data)
    compiled = haste_compiler.compile(layer.eval(), (x,), config=EVERYTHING)
    compiled.save(tmp_path / "net.haste")
    with zipfile.ZipFile(tmp_path / "net.haste") as archive:
        size = archive.getinfo("weights.safetensors").file_size
    # A scale, a bias, and what sums start with; and the names of the tensors.
    assert size <= 256 * 512 / 4 + 3 * 4 * 512 + 1000
