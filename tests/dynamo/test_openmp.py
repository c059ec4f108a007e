"""Compiled code on OpenMP's threads computes the same."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.dynamo import openmp
from haste_compiler.runtime.threads import with_threads


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 24, 3)).eval()


@pytest.mark.parametrize("cut_for", [1, 2, 3])
@pytest.mark.parametrize("threads", [1, 2])
def test_any_number_of_threads(cut_for: int, threads: int) -> None:
    model, x = network(), torch.randn(2, 8, 15, 15)
    compiled = haste_compiler.compile(model, (x,), config=HasteConfig(enabled=False), threads=cut_for)
    expected = compiled(x)
    executable = compiled._last().executable
    executable.pool = openmp.attach(executable.code)
    assert executable.pool is not with_threads
    torch.set_num_threads(threads)

    def call(given: Tensor) -> Tensor:
        return compiled(given)

    with ThreadPoolExecutor(3) as pool:
        for y in pool.map(call, [x] * 6):
            assert torch.equal(y, expected)


def test_code_in_memory_keeps_its_own_threads() -> None:
    model, x = network(), torch.randn(1, 8, 9, 9)
    compiled = haste_compiler.compile(model, (x,), config=HasteConfig(enabled=False), cache=False)
    assert openmp.attach(compiled._last().executable.code) is with_threads
