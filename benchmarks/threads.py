"""Do our threads and PyTorch's disturb each other? ``OMP_NUM_THREADS=2 python -m benchmarks.threads``."""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.dynamo import openmp
from haste_compiler.runtime.executable import Executable
from haste_compiler.runtime.threads import with_threads
from tests import zoo

_MATRIX = 512


def milliseconds(run: Callable[[], object], rounds: int) -> list[float]:
    """Times of a function, the first calls left out."""
    times = []
    for _ in range(rounds + 3):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times[3:]


def main() -> None:
    """Print times of a network, of PyTorch's matrix product, and of both in turns, on either pool of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet18", choices=zoo.ZOO)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    x = zoo.example_input(arguments.network, 1, arguments.size)
    compiled = haste_compiler.compile(
        zoo.build(arguments.network, arguments.size),
        (x,),
        config=HasteConfig(enabled=False),
        threads=arguments.threads,
    )
    executable: Executable = compiled._last().executable
    matrix = torch.randn(_MATRIX, _MATRIX)

    def network() -> None:
        executable.run([x])

    def product() -> None:
        torch.mm(matrix, matrix)

    def both() -> None:
        network()
        product()

    table = Table("threads of", "network ms", "product ms", "in turns ms", "beyond the two alone")
    with torch.inference_mode():
        # The pointer to the pool is the library's: TVM's own comes first.
        for name, pool in (("TVM, beside OpenMP", with_threads), ("OpenMP", None)):
            executable.pool = pool or openmp.attach(executable.code)
            times = [milliseconds(run, arguments.rounds) for run in (network, product, both)]
            best, median = [min(each) for each in times], [statistics.median(each) for each in times]
            cells = [f"{least:.2f} / {middle:.2f}" for least, middle in zip(best, median, strict=True)]
            extra = f"{best[2] / (best[0] + best[1]) - 1:+.0%} / {median[2] / (median[0] + median[1]) - 1:+.0%}"
            table.add_row(name, *cells, extra)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
