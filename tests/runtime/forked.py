"""Calls in forked processes: `python -m tests.runtime.forked NAME` prints what became of each."""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.codegen.target import machine_of, parse_target
from haste_compiler.cost.kernels import KernelTimer, TimedKernels
from haste_compiler.runtime.torch_threads import with_torch
from tests.dynamo.networks import DENSE as BACKEND
from tests.dynamo.networks import compiled
from tests.methods.haste.networks import redundant_images

SECONDS = 60
DENSE, HASTE = HasteConfig(enabled=False), HasteConfig(num_hyperplanes=4, cost_model=False)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 12, 3)).eval()


class Sorting(nn.Module):
    """A network of which PyTorch runs a part, on its own threads."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.sort(dim=3).values)


def in_child(check: Callable[[], bool], *, leave: bool = False) -> str:
    """What becomes of a check in a forked process: "same", "other", "error" or "hung".

    Args:
        check: whether something is as it was.
        leave: end the process as Python does, not at once.
    """
    # By then the threads of all pools sleep.
    time.sleep(0.7)
    pid = os.fork()
    if not pid:
        signal.alarm(SECONDS)
        try:
            code = 0 if check() else 1
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            code = 2
        if leave:
            sys.exit(code)
        os._exit(code)
    status = os.waitpid(pid, 0)[1]
    return "hung" if os.WIFSIGNALED(status) else ("same", "other", "error")[os.waitstatus_to_exitcode(status)]


def same(run: Callable[[Any], Any], *inputs: Any) -> Callable[[], bool]:
    """Call a network, and check that it gives the same bits when the result is called."""
    expected = [np.asarray(run(x)) for x in inputs]
    return lambda: all(np.array_equal(run(x), y) for x, y in zip(inputs, expected, strict=True))


def networks() -> dict[str, str]:
    """Every kind of network, called before and after a fork."""
    x, more = redundant_images(2, 12, 17, 17), redundant_images(5, 12, 17, 17)
    dense = haste_compiler.compile(network(), (x,), config=DENSE)
    haste = haste_compiler.compile(network(), (x,), config=HASTE)
    dynamic = haste_compiler.compile(network(), (x,), config=DENSE, dynamic=True)
    large = torch.randn(2, 12, 120, 120)
    sorting = haste_compiler.compile(Sorting(), (large,), config=DENSE)
    # What the cost model has to measure takes longer than a child may.
    haste_compiler.compile(network(), (large,))
    with tempfile.TemporaryDirectory() as folder:
        dense.save(Path(folder) / "net.haste")
        loaded = haste_compiler.load(Path(folder) / "net.haste")
    layers, geometry = dense.profile(x).keys(), haste.layers[0].geometry
    assert geometry is not None and haste.groupings and sorting.explain().fallbacks
    machine: Any = machine_of(parse_target("llvm"), 2)
    calls = same(dense, x)

    def in_threads() -> bool:
        with ThreadPoolExecutor(3) as threads:
            return all(threads.map(lambda _: calls(), range(6)))

    def compiling() -> bool:
        # The methods' choice is made on images that the network is run on.
        haste_compiler.compile(network(), (large,))
        return torch.equal(haste_compiler.compile(network(), (more,), config=DENSE)(more), dynamic(more))

    return {
        "dense": in_child(calls),
        "haste": in_child(same(haste, x)),
        "dynamic": in_child(same(dynamic, x, more)),
        "loaded": in_child(same(loaded, x)),
        "with a part of PyTorch's": in_child(same(sorting, large)),
        "profile": in_child(lambda: dense.profile(x).keys() == layers),
        "compiling": in_child(compiling),
        "timing kernels": in_child(
            lambda: with_torch(lambda: KernelTimer(TimedKernels(machine, geometry).build()).time(("dense",))[0] > 0)
        ),
        "threads of the child's": in_child(in_threads),
        "a child's child": in_child(lambda: in_child(calls) == "same"),
        "the parent": "same" if calls() else "other",
    }


def calling() -> dict[str, str]:
    """A fork while another thread calls the network."""
    x = redundant_images(2, 12, 64, 64)
    dense = haste_compiler.compile(network(), (x,), config=DENSE)
    calls, end = same(dense, x), time.monotonic() + 3

    def call() -> bool:
        results = []
        while time.monotonic() < end:
            results.append(calls())
        return all(results)

    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(call) for _ in range(2)]
        found = {f"fork {number}": in_child(calls) for number in range(3)}
        found["the parent's threads"] = "same" if all(each.result() for each in running) else "other"
    return found


def leaving() -> dict[str, str]:
    """A forked process that ends as Python does: without PyTorch, whose own threads may keep it from ending."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.haste"
        pid = os.fork()
        if not pid:
            haste_compiler.compile(network(), (torch.zeros(2, 12, 17, 17),), config=DENSE, threads=2).save(path)
            os._exit(0)
        os.waitpid(pid, 0)
        loaded = haste_compiler.load(path)
    x: Any = np.random.default_rng(0).standard_normal((2, 12, 17, 17), np.float32)
    calls = same(loaded, x)

    def after_other_threads() -> bool:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(time.sleep, [0.1] * 4))
        return calls()

    return {
        "called": in_child(calls, leave=True),
        "not called": in_child(lambda: True, leave=True),
        "called after other threads": in_child(after_other_threads, leave=True),
        "a child's child": in_child(lambda: calls() and in_child(after_other_threads, leave=True) == "same"),
        "the child of a child that did nothing": in_child(lambda: in_child(calls, leave=True) == "same"),
    }


class Features(Dataset[Tensor]):
    """Features that a compiled network computes, one image each."""

    def __init__(self, run: Callable[[Tensor], Tensor], images: Tensor) -> None:
        self.run, self.images = run, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.run(self.images[index : index + 1])[0]


def workers() -> dict[str, str]:
    """Workers of a `DataLoader`, and `torch.compile`'s backend on OpenMP's threads."""
    images = redundant_images(4, 12, 17, 17)
    dense = haste_compiler.compile(network(), (images[:1],), config=DENSE)
    expected = torch.cat([dense(image[None]) for image in images])
    time.sleep(0.7)
    made = torch.cat(list(DataLoader(Features(dense, images), num_workers=2, timeout=SECONDS)))
    run = compiled(network(), BACKEND)
    return {
        "workers": "same" if torch.equal(made, expected) else "other",
        "backend": in_child(same(run, images)),
    }


if __name__ == "__main__":
    if sys.argv[1] == "calls":
        torch.set_num_threads(2)
    with torch.no_grad():
        print(json.dumps(leaving() if sys.argv[1] == "leaving" else {**calling(), **workers(), **networks()}))
