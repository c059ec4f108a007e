"""Is `torch.compile(model, backend="haste")` ever slower than Inductor alone? ``python -m benchmarks.backend``."""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from tests.dynamo.listed import LISTED, listed


def prepared(model: nn.Module, x: Tensor, **arguments: Any) -> tuple[Callable[[Tensor], Any], float]:
    """A compiled network, and the seconds that its first call took."""
    compiled = torch.compile(model, **arguments)
    start = time.perf_counter()
    compiled(x)
    return compiled, time.perf_counter() - start


def milliseconds(runs: list[Callable[[Tensor], Any]], x: Tensor, rounds: int) -> list[list[float]]:
    """Times of each run, taken in turns, each call after an untimed one."""
    times: list[list[float]] = [[] for _ in runs]
    gc.collect()
    gc.disable()
    for done in range(rounds):
        for index in range(len(runs)) if done % 2 else reversed(range(len(runs))):
            runs[index](x)
            start = time.perf_counter()
            runs[index](x)
            times[index].append((time.perf_counter() - start) * 1e3)
    gc.enable()
    return times


def difference(actual: Any, expected: Any) -> float:
    """The largest difference of any output, as a share of its norm."""
    pairs = zip(*map(torch.utils._pytree.tree_leaves, (actual, expected)), strict=True)
    return max(float((y - wanted).norm() / wanted.norm()) for y, wanted in pairs if isinstance(wanted, Tensor))


def main() -> None:
    """Print one row a network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", help="names from the table; none: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, help="side of the images in pixels; left out: each network's own")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table("network", "Inductor ms", "haste ms", "best ratio", "median ratio", "difference", "prepare s")
    for name in arguments.networks or LISTED:
        torch._dynamo.reset()
        model, x = listed(name, arguments.batch, arguments.size)
        with torch.inference_mode():
            inductor, _ = prepared(model, x)
            ours, seconds = prepared(model, x, backend="haste")
            error = difference(ours(x), model(x))
            times = milliseconds([inductor, ours], x, arguments.rounds)
        best, median = [min(each) for each in times], [statistics.median(each) for each in times]
        numbers = [best[0], best[1], best[1] / best[0], median[1] / median[0]]
        row = [name, *(f"{number:.3f}" for number in numbers), f"{error:.1e}", f"{seconds:.0f}"]
        print(*row, flush=True)
        table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
