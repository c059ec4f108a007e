"""A compiled network that several threads call at once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.runtime.specialization import Specialization
from tests.methods.haste.networks import redundant_images

# One network, image size and configuration for all: the code is built once.
CONFIG = HasteConfig(num_hyperplanes=4, cost_model=False)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 12, 3)).eval()


def test_calls_at_once_do_not_disturb_each_other() -> None:
    images = [redundant_images(2, 12, 17, 17, seed=seed) for seed in range(6)]
    compiled = haste_compiler.compile(network(), (images[0],), config=CONFIG, threads=2)
    expected = [compiled(x) for x in images]

    def call(index: int) -> bool:
        results = [compiled(images[index]) for _ in range(20)]
        return all(torch.equal(y, expected[index]) for y in results)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(call, range(6)))


def test_first_calls_at_once_compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = Specialization.__init__

    def count(self: Specialization, *args: Any) -> None:
        made.append(threading.get_ident())
        original(self, *args)

    monkeypatch.setattr(Specialization, "__init__", count)
    compiled, x = haste_compiler.compile(network(), config=CONFIG, threads=2), redundant_images(2, 12, 17, 17)
    with ThreadPoolExecutor(4) as pool:
        results: list[Tensor] = list(pool.map(compiled, [x] * 4))
    assert len(made) == 1 and all(torch.equal(y, results[0]) for y in results)


def test_steering_during_calls() -> None:
    x = redundant_images(2, 12, 17, 17)
    compiled = haste_compiler.compile(network(), (x,), config=CONFIG, threads=2)
    answers = []
    for tolerance in (None, 0.0):
        compiled.tolerance = tolerance
        answers.append(compiled(x))
    assert not torch.equal(*answers)
    stop = threading.Event()

    def steer() -> None:
        while not stop.is_set():
            for tolerance in (None, 0.0):
                # One layer is steered before the other: steer only the first.
                compiled.tolerance = {"0": tolerance, "2": 0.0}

    compiled.tolerance = {"0": None, "2": 0.0}
    allowed = [compiled(x), answers[1]]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(steer)
        try:
            for _ in range(200):
                y = compiled(x)
                assert any(torch.equal(y, answer) for answer in allowed)
        finally:
            stop.set()
        running.result()
