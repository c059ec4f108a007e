"""One compiled network, called from many threads, from workers of a `DataLoader`, beside PyTorch's own threads."""

import gc
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tests.dynamo.networks import DENSE, Attention, Residual, assert_close, compiled, made


def _hammer(model: nn.Module, seconds: float) -> tuple[int, list[int]]:
    """Call a compiled network from eight threads; return the calls, and the memory in KiB early on and at the end."""
    run = compiled(model, DENSE)
    inputs = [torch.randn(2, 3, 11, 11) for _ in range(8)]
    with torch.no_grad():
        expected = [model(x) for x in inputs]
        for x in inputs:
            run(x)
    memory = []

    def call(index: int, end: float) -> int:
        count = 0
        with torch.no_grad():
            while time.monotonic() < end:
                assert_close(run(inputs[index]), expected[index])
                count += 1
        return count

    calls = 0
    for share in (0.3, 0.7):
        end = time.monotonic() + share * seconds
        with ThreadPoolExecutor(8) as pool:
            calls += sum(pool.map(call, range(8), [end] * 8))
        gc.collect()
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return calls, memory


@pytest.mark.parametrize("kind", [Residual, Attention])
def test_eight_threads(kind: type[nn.Module]) -> None:
    calls, _ = _hammer(made(kind), 1)
    assert calls >= 16


@pytest.mark.slow
def test_eight_threads_for_a_minute() -> None:
    calls, (early, late) = _hammer(made(Attention), 60)
    assert calls > 1000
    assert late - early < 8 << 10


class Features(Dataset[Tensor]):
    """Features that a compiled network computes, one image each."""

    def __init__(self, run: Any, images: Tensor) -> None:
        self.run, self.images = run, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        with torch.no_grad():
            return self.run(self.images[index : index + 1])[0]


@pytest.mark.parametrize("called", [False, True], ids=["compiled in the workers", "compiled before"])
def test_workers_of_a_data_loader(called: bool) -> None:
    model, images = made(Residual), torch.randn(4, 3, 8, 8)
    torch.set_num_threads(2)
    run = compiled(model, DENSE)
    if called:
        # Threads are at work in this process before it forks.
        run(images[:1])
    found = torch.cat(list(DataLoader(Features(run, images), num_workers=2, timeout=60)))
    assert_close(found, model(images))
