"""One compilation for all batches: the same numbers as PyTorch, and as compiling for each batch by itself."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.errors import (
    CaptureError,
    ConfigError,
    HasteError,
    InputError,
    TargetError,
)
from haste_compiler.runtime.compiled import CompiledModule
from tests import zoo
from tests.without_torch import NO_TORCH

DENSE = HasteConfig(enabled=False)
PLAIN = HasteConfig(enabled=False, winograd=0)
MERGING = HasteConfig(cost_model=False, winograd=0, min_channels=4)
PUBLISHED = HasteConfig.paper().replace(winograd=0)


class Residual(nn.Module):
    """Convolutions that merge, one that Winograd's algorithm takes, 1×1, depthwise, pooling and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.own = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.wide = nn.Conv2d(16, 24, 1)
        self.head = nn.Linear(24 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.gelu(x + self.conv(x))
        x = self.wide(F.max_pool2d(self.own(x), 2)) * 0.5
        x = F.adaptive_avg_pool2d(x, 2)
        return self.head(x.view(x.size(0), self.head.in_features)).softmax(1)


class TwoInputs(nn.Module):
    """Takes images and a dictionary with a vector for each, and a table that has nothing to do with the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(13, 4)

    def forward(self, x: Tensor, more: dict[str, Tensor], table: Tensor) -> dict[str, Any]:
        both = torch.cat([self.conv(x).mean((2, 3)), more["v"]], 1)
        return {"scores": self.head(both) @ table, "count": 3}


class After(nn.Module):
    """A convolution, then anything."""

    def __init__(self, what: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.what = what

    def forward(self, x: Tensor) -> Any:
        return self.what(self.conv(x))


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def residual() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture(scope="module", params=[DENSE, MERGING, PUBLISHED], ids=["dense", "merging", "published"])
def compiled(request: pytest.FixtureRequest, residual: nn.Module) -> CompiledModule:
    return haste_compiler.compile(residual, images(4), config=request.param, threads=1, dynamic=True)


def made(compiled: CompiledModule, folder: Path) -> int:
    """How many times it was compiled."""
    compiled.save(folder / "net.haste")
    return len(haste_compiler.load(folder / "net.haste").shapes)


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(0, 100))
@example(1, 0)
def test_any_batch_gives_what_pytorch_gives(batch: int, seed: int) -> None:
    torch.manual_seed(1)
    model = Residual().eval()
    network = _once("pytorch", lambda: haste_compiler.compile(model, images(4), config=DENSE, threads=1, dynamic=True))
    x = images(batch, seed)
    with torch.inference_mode():
        assert torch.allclose(network(x), model(x), atol=1e-5)


_MADE: dict[str, CompiledModule] = {}


def _once(name: str, make: Callable[[], CompiledModule]) -> CompiledModule:
    if name not in _MADE:
        _MADE[name] = make()
    return _MADE[name]


@pytest.mark.parametrize("config", [PLAIN, MERGING, PUBLISHED], ids=["dense", "merging", "published"])
@pytest.mark.parametrize("batch", [1, 4, 9])
def test_the_bits_are_those_of_the_static_compile(residual: nn.Module, config: HasteConfig, batch: int) -> None:
    network = _once(
        str(config), lambda: haste_compiler.compile(residual, images(4), config=config, threads=1, dynamic=True)
    )
    static = haste_compiler.compile(residual, images(batch), config=config, threads=1)
    x = images(batch, seed=batch)
    y, stats = network.run_with_stats(x)
    expected, statistics = static.run_with_stats(x)
    assert torch.equal(y, expected)
    assert list(stats) == list(statistics)
    for name, layer in stats.items():
        assert layer.images == batch and layer.macs == statistics[name].macs
        assert np.array_equal(layer.counts, statistics[name].counts)
        assert np.array_equal(layer.bound, statistics[name].bound)


def test_winograd_takes_any_batch() -> None:
    # A task takes several images' tiles at the example batch; other batches leave it some of them.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)).eval()
    network = haste_compiler.compile(model, torch.randn(8, 64, 4, 4), config=DENSE, threads=1, dynamic=True)
    for batch in (1, 3, 8, 13):
        x = torch.randn(batch, 64, 4, 4)
        with torch.inference_mode():
            assert torch.allclose(network(x), model(x), atol=1e-4)


def test_a_gate_looks_at_samples_of_any_batch(residual: nn.Module) -> None:
    # Noise has nothing to merge: the plain convolution is computed, and says so, in one call as in the other.
    config = HasteConfig(winograd=0, min_channels=4, tolerance=0.0)
    pairs = [
        haste_compiler.compile(residual, images(6), config=config, threads=1, dynamic=dynamic)
        for dynamic in (True, False)
    ]
    for x in (images(6), torch.zeros(6, 3, 12, 12)):
        (y, stats), (expected, statistics) = (each.run_with_stats(x) for each in pairs)
        assert torch.equal(y, expected)
        assert {n: s.gave_up for n, s in stats.items()} == {n: s.gave_up for n, s in statistics.items()}


def test_it_is_compiled_once(compiled: CompiledModule, tmp_path: Path) -> None:
    for batch in (1, 2, 17):
        compiled(images(batch))
    assert made(compiled, tmp_path) == 1


def test_a_saved_network_takes_any_batch_without_pytorch(compiled: CompiledModule, tmp_path: Path) -> None:
    x = images(7)
    compiled.save(tmp_path / "net.haste")
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=compiled(x).numpy(), z=compiled(x[:1]).numpy())
    code = f"""{NO_TORCH}
import numpy as np, haste_compiler
network, data = haste_compiler.load(sys.argv[1]), np.load(sys.argv[2])
assert np.array_equal(network(data["x"]), data["y"]) and np.array_equal(network(data["x"][:1]), data["z"])
assert all(layer.images == 7 for layer in network.stats(data["x"]).values())
"""
    command = [sys.executable, "-c", code, str(tmp_path / "net.haste"), str(tmp_path / "data.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_saved_network_keeps_its_range(residual: nn.Module, tmp_path: Path) -> None:
    network = haste_compiler.compile(
        residual, images(3), config=DENSE, threads=1, dynamic_shapes={"x": {0: Dim("batch", min=2, max=5)}}
    )
    network.save(tmp_path / "net.haste")
    loaded = haste_compiler.load(tmp_path / "net.haste")
    assert torch.equal(loaded(images(5)), network(images(5)))
    for call in (network, loaded):
        for batch in (1, 6):
            with pytest.raises(InputError, match=f"input 0 has {batch} images: 'batch' may be 2 to 5"):
                call(images(batch))
    with pytest.raises(InputError, match=r"batchx3x12x12 \(batch 2 to 5\)"):
        loaded(torch.zeros(3, 3, 16, 16))


def test_it_is_steered_for_all_batches(residual: nn.Module) -> None:
    network = haste_compiler.compile(residual, images(4), config=MERGING, threads=1, dynamic=True)
    before = network(images(9))
    network.tolerance = 0.0
    network.flat_tolerance = 0.0
    assert not torch.equal(network(images(9)), before)
    with torch.inference_mode():
        assert torch.allclose(network(images(9)), residual(images(9)), atol=1e-5)


def test_the_validator_takes_batches_of_different_sizes(residual: nn.Module) -> None:
    network = haste_compiler.compile(residual, images(4), config=MERGING, threads=1, dynamic=True)
    report = haste_compiler.validate(residual, network, [(images(5),), (images(2),)], rounds=1)
    assert report.images == 7 and report.max_rel_error < 0.5 and report.speedup is not None


def test_inputs_share_a_batch() -> None:
    torch.manual_seed(0)
    model, table = TwoInputs().eval(), torch.randn(4, 6)

    def inputs(batch: int, vectors: int | None = None) -> tuple[Any, ...]:
        return torch.randn(batch, 3, 8, 8), {"v": torch.randn(vectors or batch, 5)}, table

    batch = {0: Dim("n", min=1, max=9)}
    asked: list[dict[str, Any]] = [{"dynamic": True}, {"dynamic_shapes": {"x": batch, "more": {"v": batch}}}]
    for how in asked:
        network = haste_compiler.compile(model, inputs(3), config=DENSE, threads=1, **how)
        for count in (1, 8):
            given_ = inputs(count)
            with torch.inference_mode():
                y, expected = network(*given_), model(*given_)
            assert y["count"] == 3 and torch.allclose(y["scores"], expected["scores"], atol=1e-5)
        with pytest.raises(InputError, match="input 1 has 5 images, input 0 has 2"):
            network(*inputs(2, 5))
    with pytest.raises(InputError, match="'n' is given two ranges"):
        other = ({0: Dim("n", max=9)}, {"v": {0: Dim("n", max=8)}}, None)
        haste_compiler.compile(model, inputs(3), config=DENSE, threads=1, dynamic_shapes=other)


def test_an_example_of_one_image_will_do(residual: nn.Module) -> None:
    network = haste_compiler.compile(residual, images(1), config=DENSE, threads=1, dynamic=True)
    with torch.inference_mode():
        assert torch.allclose(network(images(11)), residual(images(11)), atol=1e-5)


def test_another_image_size_is_another_compilation(residual: nn.Module, tmp_path: Path) -> None:
    network = haste_compiler.compile(residual, config=DENSE, threads=1, dynamic=True)
    for size in (12, 16):
        for batch in (2, 3):
            network(torch.zeros(batch, 3, size, size))
    assert made(network, tmp_path) == 2


def test_an_empty_batch_needs_no_code(compiled: CompiledModule) -> None:
    assert compiled(images(0)).shape == (0, 10)


@pytest.mark.parametrize(
    "what",
    [
        lambda y: y.mean(0),
        lambda y: y[0],
        lambda y: y[-1],
        lambda y: y.unbind(1)[0].amax(0) - y[-1, 2],
        lambda y: y * y.shape[0] + y.split(3, 1)[1].sum() / y.shape[0],
        lambda y: y.cumsum(0)[:, None].roll(1, 2).chunk(2, 2)[1],
        lambda y: y.flip(0),
        lambda y: torch.cat([y, y], 0),
        lambda y: y.flatten(2).permute(2, 0, 1),
        lambda y: F.max_pool2d(y.reshape(y.shape[0] * 2, 4, 8, 8), 2),
        lambda y: torch.cat([torch.ones(1, 1, 8, 8).expand(y.shape[0], -1, -1, -1), y], 1),
        lambda y: y.flatten(2) @ y.flatten(2).transpose(1, 2),
        lambda y: y.transpose(2, 3) @ y.softmax(3) @ y.softmax(1),
        lambda y: F.scaled_dot_product_attention(y, y, y[..., :5]),
        lambda y: F.layer_norm(y.flatten(2).permute(1, 0, 2), (64,)).softmax(2),
        lambda y: F.interpolate(y, size=(13, 13), mode="bilinear"),
        lambda y: F.interpolate(y, scale_factor=2, mode="bilinear"),
    ],
)
def test_what_follows_may_use_the_batch(what: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = After(what).eval()
    network = haste_compiler.compile(model, torch.randn(4, 3, 8, 8), config=DENSE, threads=1, dynamic=True)
    for batch in (1, 7):
        x = torch.randn(batch, 3, 8, 8)
        with torch.inference_mode():
            expected = model(x)
            assert network(x).shape == expected.shape and torch.allclose(network(x), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (lambda y: y.reshape(4, -1), CaptureError, "specialized it to be a constant"),
        (lambda y: y * 2 if y.shape[0] > 2 else y, CaptureError, r"batch = Dim\('batch', min=3\)"),
        (lambda y: y.mean((2, 3)).squeeze(), CaptureError, r"returns \[\(8,\)\] for a batch of 1, not \[\(1, 8\)\]"),
        (lambda y: (y, y.shape[0]), CaptureError, "a number that isn't fixed"),
    ],
)
def test_code_for_some_batches_only_is_refused(
    what: Callable[[Tensor], Any], error: type[HasteError], message: str
) -> None:
    with pytest.raises(error, match=message):
        haste_compiler.compile(After(what).eval(), torch.randn(4, 3, 8, 8), config=DENSE, dynamic=True)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"dynamic_shapes": {"x": {0: Dim("n"), 2: Dim("h")}}}, InputError, "axis 2 of x can't vary.* axis 0"),
        ({"dynamic_shapes": {"x": {4: Dim("n")}}}, InputError, "x has no axis 4, it has 4"),
        ({"dynamic_shapes": {"x": {0: 2 * Dim("n")}}}, InputError, "axis 0 of x is .*allowed are Dim and None"),
        ({"dynamic_shapes": {"y": {0: Dim("n")}}}, InputError, "no argument 'y'; the model takes x"),
        ({"dynamic_shapes": {"x": Dim("n")}}, InputError, "x is Tensor, .* is given for it"),
        ({"dynamic_shapes": (None, None)}, InputError, "an entry for each of x"),
        ({"dynamic_shapes": 3}, InputError, "dynamic_shapes is int"),
        ({"dynamic_shapes": {"x": {0: Dim("n", max=3)}}}, InputError, "has 4 images: 'n' may be 1 to 3"),
        ({"dynamic": True, "dynamic_shapes": {}}, ConfigError, "dynamic_shapes without it"),
        ({"dynamic": "yes"}, ConfigError, "dynamic is 'yes'"),
        ({"dynamic": True, "target": "cuda -arch=sm_80"}, TargetError, "only a CPU's"),
    ],
)
def test_what_is_asked_for_is_checked(
    residual: nn.Module, asked: dict[str, Any], error: type[HasteError], message: str
) -> None:
    with pytest.raises(error, match=message):
        haste_compiler.compile(residual, images(4), config=DENSE, **asked)


class Strided(nn.Module):
    """A residual block that halves the image, as every ResNet has: its first convolution and its shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.first, self.shortcut = nn.Conv2d(16, 24, 3, 2, 1), nn.Conv2d(16, 24, 1, 2)
        self.second = nn.Conv2d(24, 24, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x)).mean((2, 3))


def test_a_strided_block_takes_any_batch() -> None:
    model = Strided().eval()
    network = haste_compiler.compile(
        model, torch.zeros(4, 1, 18, 18), config=HasteConfig.exact(), threads=1, dynamic=True
    )
    assert [layer.name for layer in network.layers if layer.eligible] == ["first", "second", "shortcut"]
    for batch in (1, 6):
        x = torch.randn(batch, 1, 18, 18)
        with torch.inference_mode():
            assert torch.allclose(network(x), model(x), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x1_0", "densenet121", "googlenet", "vgg11_bn"]
)
@pytest.mark.parametrize("config", [DENSE, HasteConfig.exact()], ids=["dense", "exact"])
def test_networks_of_the_zoo_take_any_batch(name: str, config: HasteConfig) -> None:
    model = zoo.zoo(name, 64)
    network = haste_compiler.compile(model, zoo.example_input(name, 2, 64), config=config, threads=1, dynamic=True)
    for batch in (1, 5):
        x = zoo.example_input(name, batch, 64)
        with torch.inference_mode():
            expected = model(x)
        assert float((network(x) - expected).norm() / expected.norm()) < 1e-4
