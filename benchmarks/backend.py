"""Is `torch.compile(model, backend="haste")` ever slower than Inductor alone? ``python -m benchmarks.backend``."""

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from haste_compiler.validation.timing import no_garbage_collection, timed
from tests.dynamo.listed import LISTED, listed


def prepared(model: nn.Module, x: Tensor, **arguments: Any) -> tuple[Callable[[Tensor], Any], float]:
    """A compiled network, and the seconds that its first call took."""
    compiled = torch.compile(model, **arguments)
    start = time.perf_counter()
    compiled(x)
    return compiled, time.perf_counter() - start


class Choices(logging.Handler):
    """Keeps what the backend says that it took: "ours" or "Inductor's code", one for each graph."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[str] = []
        logger = logging.getLogger("haste_compiler.dynamo")
        logger.setLevel(logging.INFO)
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a choice."""
        text = record.getMessage()
        if text.startswith("at sizes"):
            self.taken.append(text.rpartition(": ")[2])
        elif text.startswith("left to Inductor"):
            self.taken.append("Inductor's code")


def milliseconds(runs: list[Callable[[Tensor], Any]], x: Tensor, rounds: int) -> list[list[float]]:
    """Times of each run, taken in turns, each call after untimed ones."""
    times: list[list[float]] = [[] for _ in runs]
    with no_garbage_collection():
        for done in range(rounds):
            for index in range(len(runs)) if done % 2 else reversed(range(len(runs))):
                times[index].append(timed(partial(runs[index], x)) * 1e3)
    return times


def difference(actual: Any, expected: Any) -> float:
    """The largest difference of any output, as a share of its norm."""
    pairs = zip(*map(torch.utils._pytree.tree_leaves, (actual, expected)), strict=True)
    return max(float((y - wanted).norm() / wanted.norm()) for y, wanted in pairs if isinstance(wanted, Tensor))


def compare(name: str, threads: int, rounds: int, batch: int, size: int | None) -> dict[str, Any]:
    """One row: times in milliseconds, what the backend took, and the outputs' difference from eager PyTorch's."""
    torch._dynamo.reset()
    model, x = listed(name, batch, size)
    choices = Choices()
    with torch.inference_mode():
        inductor, _ = prepared(model, x)
        ours, seconds = prepared(model, x, backend="haste")
        error = difference(ours(x), model(x))
        times = milliseconds([inductor, ours], x, rounds)
    logging.getLogger("haste_compiler.dynamo").removeHandler(choices)
    best, median = [min(each) for each in times], [statistics.median(each) for each in times]
    return {
        "network": name,
        "settings": [threads, batch, size],
        "inductor": best[0],
        "haste": best[1],
        "best ratio": best[1] / best[0],
        "median ratio": median[1] / median[0],
        "taken": ", ".join(sorted(set(choices.taken))),
        "difference": error,
        "prepare": seconds,
        "date": time.strftime("%Y-%m-%d"),
    }


def table_of(rows: list[dict[str, Any]]) -> Table:
    """The rows, the best ratio first."""
    table = Table(
        "network", "Inductor ms", "haste ms", "best ratio", "median ratio", "taken", "difference", "prepare s"
    )
    for row in sorted(rows, key=lambda row: row["best ratio"]):
        times = [f"{row[name]:.1f}" for name in ("inductor", "haste")]
        ratios = [f"{row[name]:.2f}" for name in ("best ratio", "median ratio")]
        table.add_row(
            row["network"], *times, *ratios, row["taken"], f"{row['difference']:.1e}", f"{row['prepare']:.0f}"
        )
    return table


def main() -> None:
    """Print one row a network; with --json, keep each at once, and go on where the last run ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", help="names from the table; none: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, help="side of the images in pixels; left out: each network's own")
    parser.add_argument("--json", type=Path, help="rows that are there aren't timed again; new ones are added")
    parser.add_argument("--seconds", type=float, help="begin no other network after so long")
    parser.add_argument("--fill-caches", action="store_true", help="only compile, so that a later run does so sooner")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    if arguments.json is not None and arguments.json.exists():
        rows = json.loads(arguments.json.read_text())
    settings = [arguments.threads, arguments.batch, arguments.size]
    done = {row["network"] for row in rows if row["settings"] == settings}
    for name in arguments.networks or LISTED:
        if name in done or (arguments.seconds and time.perf_counter() - start > arguments.seconds):
            continue
        row = compare(name, arguments.threads, 1 if arguments.fill_caches else arguments.rounds, *settings[1:])
        print(*[f"{value:.3g}" if isinstance(value, float) else value for value in row.values()], flush=True)
        if arguments.fill_caches:
            continue
        rows.append(row)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    Console(width=120).print(table_of([row for row in rows if row["settings"] == settings]))


if __name__ == "__main__":
    main()
