"""Is the default configuration ever slower than the dense compile? ``python -m benchmarks.never_slower``."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import haste_compiler
from haste_compiler.validation.timing import no_garbage_collection, timed
from tests import zoo

TRAINED = ("resnet18", "resnet34", "resnet20")


@dataclass(frozen=True)
class Result:
    """Times of one network, in milliseconds, and the median over the rounds of HASTE's time over the dense one's."""

    name: str
    layers: int
    dense: float
    haste: float
    ratio: float


def cases(names: list[str]) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """The networks: torchvision's with random weights, then the trained ones on images at 32×32 and on photographs."""
    for name in zoo.ZOO:
        if not names or name in names:
            yield name, zoo.build(name), zoo.example_input(name)
    if zoo.trained_module() is None:
        return
    for name in TRAINED:
        if not names or f"trained_{name}" in names:
            yield f"trained_{name}", zoo.trained(name), zoo.cifar_images(name, 1)[0]
    if not names or "photographs_resnet18" in names:
        yield "photographs_resnet18", zoo.trained("resnet18"), zoo.photographs(1)


def compare(name: str, model: nn.Module, x: Tensor, threads: int, rounds: int, clock: Callable[[], float]) -> Result:
    """Time both compiles in turns, each call after untimed ones."""
    compiled = haste_compiler.compile(model, (x,), threads=threads)
    pair = (compiled.dense, compiled)
    times: tuple[list[float], list[float]] = ([], [])
    with no_garbage_collection():
        for round_ in range(rounds):
            for index in (0, 1) if round_ % 2 else (1, 0):
                times[index].append(timed(partial(pair[index], x), clock) * 1e3)
    ratio = statistics.median(haste / dense for dense, haste in zip(*times, strict=True))
    return Result(name, sum(layer.eligible for layer in compiled.layers), min(times[0]), min(times[1]), ratio)


def main() -> None:
    """Print one row a network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", help="names from the table; none: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cpu-time", action="store_true", help="count one thread's own time only")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.thread_time if arguments.cpu_time and arguments.threads == 1 else time.perf_counter
    table = Table("network", "HASTE layers", "dense ms", "default ms", "best ratio", "median ratio")
    for name, model, x in cases(arguments.networks):
        found = compare(name, model, x, arguments.threads, arguments.rounds, clock)
        numbers = f"{found.dense:.2f}", f"{found.haste:.2f}", f"{found.haste / found.dense:.3f}", f"{found.ratio:.3f}"
        print(name, found.layers, *numbers, flush=True)
        table.add_row(name, str(found.layers), *numbers)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
