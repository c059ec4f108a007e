"""Long streams, and many at once: errors don't add up, nothing is mixed up, nothing is left behind."""

import math
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

import haste_compiler
from haste_compiler import CompiledModule, HasteConfig
from tests.streams.test_stream import SIZE, Network, error

TOLERANCE = 0.1
_MINUTE = 60.0
_SPARE_MB = 30


class Scene:
    """A still picture that grows brighter and darker, noise, and two squares that go round in it."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._still = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(seed))

    def frame(self, number: int) -> Tensor:
        """Any frame of it: the same number gives the same."""
        noise = torch.randn(self._still.shape, generator=torch.Generator().manual_seed(1000 * self._seed + number))
        picture = self._still * (1 + 0.2 * math.sin(number / 150)) + 0.01 * noise
        for turn, brightness in ((17, 2.0), (31, -3.0)):
            row, column = (int(10 + 9 * wave(number / turn)) for wave in (math.sin, math.cos))
            picture[:, :, row : row + 5, column : column + 5] += brightness
        return picture


@pytest.fixture(scope="module")
def compiled() -> CompiledModule:
    torch.manual_seed(0)
    return haste_compiler.compile(Network().eval(), threads=1, config=HasteConfig(enabled=False))


def test_forth_and_back(compiled: CompiledModule) -> None:
    stream, scene = compiled.stream(TOLERANCE), Scene(1)
    for number in [*range(48), *reversed(range(48))]:
        outputs = stream(scene.frame(number))
    for actual, wanted in zip(outputs, compiled(scene.frame(0)), strict=True):
        assert 0 < error(actual, wanted) < TOLERANCE
    assert stream.stats().work < 0.7 and stream.stats().plain == 0


@pytest.mark.slow
def test_a_thousand_frames(compiled: CompiledModule) -> None:
    stream, scene = compiled.stream(TOLERANCE), Scene(2)
    errors = []
    for number in range(1000):
        outputs, wanted = stream(scene.frame(number)), compiled(scene.frame(number))
        errors.append(max(map(error, outputs, wanted)))
    assert max(errors) < TOLERANCE
    assert max(errors[-100:]) < 1.5 * max(errors[:100])
    assert stream.stats().work < 0.7 and stream.stats().plain == 0


@pytest.mark.slow
def test_eight_streams_for_a_minute(compiled: CompiledModule) -> None:
    """Each thread plays a scene of its own again and again, by a new stream each time."""
    scenes, length = [Scene(seed) for seed in range(8)], 20

    def play(scene: Scene) -> list[Tensor]:
        stream = compiled.stream(TOLERANCE)
        return [stream(scene.frame(number))[1] for number in range(length)]

    alone = [play(scene) for scene in scenes]
    end, rounds, wrong = time.monotonic() + _MINUTE, [0] * len(scenes), []

    def repeat(index: int) -> None:
        while time.monotonic() < end:
            found = play(scenes[index])
            rounds[index] += 1
            if not all(map(torch.equal, found, alone[index])):
                wrong.append(index)

    players = [threading.Thread(target=repeat, args=(index,)) for index in range(len(scenes))]
    for player in players:
        player.start()
    time.sleep(_MINUTE / 4)
    early, threads = _resident_mb(), threading.active_count()
    for player in players:
        player.join()
    assert not wrong and min(rounds) > 1
    assert threading.active_count() == threads - len(players)
    assert _resident_mb() < early + _SPARE_MB


def _resident_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
