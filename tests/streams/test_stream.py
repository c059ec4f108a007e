"""Streams against their definition in plain PyTorch, and against the network that is run on every frame."""

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import haste_compiler
from haste_compiler import CompiledModule, ConfigError, HasteConfig, InputError, QuantizedConfig
from haste_compiler.graph.capture import capture
from haste_compiler.passes.pipeline import rewrite
from haste_compiler.streams.reference import ReferenceStream, tile_sides

SIZE = (30, 27)
"""No multiple of a tile's side."""


class Network(nn.Module):
    """Convolutions of many kinds, a residual, pooling, and operators that streams compute as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 5, padding=2)
        self.plain, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.strided, self.point = nn.Conv2d(16, 20, 3, stride=2, padding=1), nn.Conv2d(20, 24, 1)
        self.deep, self.grouped = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(20, 20, 3, padding=1, groups=2)
        self.depthwise, self.head = nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.stem(x)), 2, 1)
        y = F.relu(x + self.second(F.relu(self.plain(x))))
        y = F.silu(self.strided(y + self.deep(y).sigmoid()))
        y = self.depthwise(self.point(self.grouped(y)))
        return y, self.head(y.mean((2, 3)))


def frames(count: int, batch: int = 2, noise: float = 0.0) -> list[Tensor]:
    """A square moves over a still picture, and back; with noise in every pixel."""
    torch.manual_seed(0)
    still = torch.randn(batch, 3, *SIZE)
    made = []
    for place in [*range(count), *reversed(range(count))]:
        frame = still + noise * torch.randn_like(still)
        frame[:, :, 4:9, 3 * place : 3 * place + 6] += 2.0
        made.append(frame)
    return made


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def compiled(network: Network) -> CompiledModule:
    return haste_compiler.compile(network, threads=1, config=HasteConfig(enabled=False))


def error(actual: Tensor, wanted: Tensor) -> float:
    return float((actual - wanted).norm() / wanted.norm())


def test_without_tolerance_it_is_the_network(compiled: CompiledModule) -> None:
    stream = compiled.stream(tolerance=0)
    for frame in frames(4):
        for actual, wanted in zip(stream(frame), compiled(frame), strict=True):
            assert torch.equal(actual, wanted)
    layers = stream.stats().layers
    assert len(layers) == 8
    assert all(0 < layer.last < layer.tiles for layer in layers.values())


@pytest.mark.parametrize("tolerance", [0.05, 0.1, 0.3])
def test_definition(network: Network, compiled: CompiledModule, tolerance: float) -> None:
    video = frames(3, noise=0.02)
    stream = compiled.stream(tolerance=tolerance)
    stream(video[0])
    sides = {name: layer.side for name, layer in stream.stats().layers.items()}
    gm = rewrite(capture(network, (video[0],)))
    reference = ReferenceStream(gm, tile_sides(sides), tolerance, tolerance / 2)
    with torch.inference_mode():
        reference.run(video[0])
        for frame in video[1:]:
            wanted = reference.run(frame)
            for actual, each in zip(stream(frame), wanted, strict=True):
                assert error(actual, each) < 1e-5
            assert [layer.last for layer in stream.stats().layers.values()] == [
                int(tiles.sum()) for tiles in reference.listed.values()
            ]


def test_errors_do_not_add_up(compiled: CompiledModule) -> None:
    stream = compiled.stream(tolerance=0.1)
    errors = [error(stream(frame)[0], compiled(frame)[0]) for _ in range(4) for frame in frames(5, noise=0.01)]
    assert 0 < max(errors) < 0.1
    assert max(errors[-10:]) < 2 * max(errors[:10])
    assert stream.stats().work < 0.9


def test_refresh_and_reset(compiled: CompiledModule) -> None:
    still = frames(1)[0]
    stream = compiled.stream(tolerance=0.1, refresh=3)
    work = []
    for _ in range(6):
        stream(still)
        work.append(stream.stats().last_work)
    assert work == [1, 0, 0, 1, 0, 0]
    assert stream.stats().work == pytest.approx(1 / 3)
    stream.reset()
    assert stream.stats().frames == 0
    stream(still)
    assert stream.stats().last_work == 1


def test_a_camera_that_moves_is_left_to_the_network(compiled: CompiledModule) -> None:
    """All pixels change with every frame; then none does, and the stream finds out by itself."""
    torch.manual_seed(0)
    stream, moving = compiled.stream(tolerance=0.1), [torch.randn(2, 3, *SIZE) for _ in range(20)]
    plain = []
    for frame in [*moving, *[moving[-1]] * 14]:
        before = stream.stats().plain
        for actual, wanted in zip(stream(frame), compiled(frame), strict=True):
            assert error(actual, wanted) < 1e-6
        plain.append(stream.stats().plain - before)
    assert plain == [0, 0, *[1] * 14, 0, 0, *[1] * 14, 0, 0]
    assert stream.stats().last_work == 0


def test_a_network_in_int8(network: Network, compiled: CompiledModule, tmp_path: Path) -> None:
    """Tiles are float32's; frames of a camera that moves are the network's own, in integers."""
    quantized = haste_compiler.compile(network, threads=1, config=QuantizedConfig(cost_model=False, max_error=1))
    video, other = frames(3), torch.randn(2, 3, *SIZE)
    stream, plain = quantized.stream(tolerance=0.1), compiled.stream(tolerance=0.1)
    for frame in video:
        assert all(map(torch.equal, stream(frame), plain(frame)))
    assert stream.stats().layers == plain.stats().layers
    for _ in range(2):
        outputs = stream(other)
    assert stream.stats().plain == 1
    assert all(map(torch.equal, outputs, quantized(other)))
    assert not torch.equal(outputs[0], compiled(other)[0])
    quantized.save(tmp_path / "net.haste", streams=True)
    loaded = haste_compiler.load(tmp_path / "net.haste").stream(tolerance=0.1)
    for frame in (*video, other, other):
        outputs = loaded(frame)
    assert loaded.stats() == stream.stats()


def test_another_shape_after_reset() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1)).eval()
    compiled = haste_compiler.compile(model, threads=1, config=HasteConfig(enabled=False))
    stream = compiled.stream()
    for side in (8, 9):
        frame = torch.randn(1, 1, side, side)
        assert torch.equal(stream(frame), compiled(frame))
        stream.reset()


def test_streams_are_independent(compiled: CompiledModule) -> None:
    videos = [frames(4), [frame.flip(3) for frame in frames(4)]]
    streams = [compiled.stream(tolerance=0.1) for _ in range(2)]
    alone = [[stream(frame)[1] for frame in video] for stream, video in zip(streams, videos, strict=True)]
    together: list[list[Tensor]] = [[], []]

    def play(index: int) -> None:
        stream = compiled.stream(tolerance=0.1)
        together[index] = [stream(frame)[1] for frame in videos[index]]

    players = [threading.Thread(target=play, args=(index,)) for index in range(2)]
    for player in players:
        player.start()
    for player in players:
        player.join()
    for index in range(2):
        assert all(map(torch.equal, alone[index], together[index]))


@pytest.mark.parametrize("tolerance", [0.0, 0.1])
def test_what_is_not_finite_passes_through_and_is_gone(compiled: CompiledModule, tolerance: float) -> None:
    clean, spoilt = frames(1)[0], frames(1)[0].clone()
    spoilt[0, 1, 11, 12] = torch.nan
    stream = compiled.stream(tolerance=tolerance)
    stream(clean)
    for actual, wanted in zip(stream(spoilt), compiled(spoilt), strict=True):
        assert torch.equal(actual.isnan(), wanted.isnan())
    stream(clean)
    for actual, wanted in zip(stream(clean), compiled(clean), strict=True):
        assert error(actual, wanted) < (1e-6 if tolerance else 1e-30)


def test_the_smallest_change_counts_without_tolerance() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False)).eval()
    compiled = haste_compiler.compile(model, threads=1, config=HasteConfig(enabled=False))
    stream = compiled.stream(tolerance=0)
    frame = torch.zeros(1, 1, 16, 16)
    stream(frame)
    changed = frame.clone()
    changed[0, 0, 5, 5] = 1e-30
    assert torch.equal(stream(changed), compiled(changed))
    assert stream.stats().last_work > 0


def test_refused(compiled: CompiledModule) -> None:
    with pytest.raises(ConfigError, match=r"tolerance is -1: allowed are numbers from 0 on"):
        compiled.stream(tolerance=-1)
    with pytest.raises(ConfigError, match="refresh is 0: allowed are whole numbers from 1 on"):
        compiled.stream(refresh=0)
    stream = compiled.stream()
    stream(frames(1)[0])
    with pytest.raises(InputError, match="a frame is 1x3x40x40: the stream began with another shape"):
        stream(torch.randn(1, 3, 40, 40))
    with pytest.raises(haste_compiler.UnsupportedOperatorError, match="no convolution of images"):
        haste_compiler.compile(nn.Linear(4, 4), config=HasteConfig(enabled=False)).stream()(torch.randn(2, 4))
