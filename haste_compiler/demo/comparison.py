"""The carried network as PyTorch runs it and as it can be compiled: what each gets right, takes, saves and weighs."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import haste_compiler
from haste_compiler import CompiledModule, HasteConfig, QuantizedConfig
from haste_compiler.errors import ValidationError
from haste_compiler.text import as_text
from haste_compiler.validation.timing import no_garbage_collection, timed

MIN_AGREEMENT = 0.97
"""Least share of images that a compiled network must put into the class that the original puts them into."""

_ROUNDS = 15

CONFIGURATIONS = {
    "compiled, float32": HasteConfig(enabled=False),
    "compiled, int8": QuantizedConfig(cost_model=False),
    "compiled, HASTE in every layer": HasteConfig(cost_model=False),
}
"""Ways to compile it, none of which has to measure the machine first."""


@dataclass(frozen=True)
class Row:
    """What one network does.

    Attributes:
        name: what it is.
        right: share of the images that it classifies right.
        agreement: share that it puts into the original's class.
        best, median: seconds of a call with one batch.
        saved: net share of the multiply-adds that is saved.
        size: bytes of its file.
    """

    name: str
    right: float
    agreement: float
    best: float
    median: float
    saved: float
    size: int


def compare(network: nn.Module, batches: Sequence[Tensor], labels: Tensor, console: Console) -> list[Row]:
    """Compile a network in each way, and hold all of them against PyTorch, timed in turns.

    Args:
        network: in evaluation mode.
        batches: images (N, C, H, W), all of one shape.
        labels: of all of them, in order.
        console: is told what was compiled.

    Raises:
        ValidationError: a compiled network disagrees with the original on too many images.
    """
    start = time.perf_counter()
    compiled = {
        name: haste_compiler.compile(network, (batches[0],), config=config) for name, config in CONFIGURATIONS.items()
    }
    console.print(f"Compiled for this machine in {len(compiled)} ways, in {time.perf_counter() - start:.1f} s.")
    networks: dict[str, Callable[[Tensor], Tensor]] = {"PyTorch": network, **compiled}
    with torch.inference_mode():
        classes = {name: torch.cat([each(x).argmax(1) for x in batches]) for name, each in networks.items()}
    expected = classes["PyTorch"]
    for name, found in classes.items():
        if (agreement := _share(found == expected)) < MIN_AGREEMENT:
            raise ValidationError(
                f"{name}: {agreement:.1%} of the images in the original's class, not {MIN_AGREEMENT:.0%}"
            )
    seconds = _times(networks, batches)
    sizes = {name: _size(each) for name, each in compiled.items()}
    sizes["PyTorch"] = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    return [
        Row(
            name,
            _share(found == labels),
            _share(found == expected),
            min(seconds[name]),
            statistics.median(seconds[name]),
            _saved(compiled[name], batches[0]) if name in compiled else 0.0,
            sizes[name],
        )
        for name, found in classes.items()
    ]


def table(rows: Sequence[Row], batch: int) -> str:
    """The rows as text; ``batch``: images in a call."""
    made = Table(box=box.SIMPLE)
    made.add_column("")
    for heading in ("right", "as PyTorch", f"{batch} images", "times as fast", "multiply-adds saved", "file"):
        made.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        made.add_row(
            row.name,
            f"{row.right:.1%}",
            f"{row.agreement:.1%}",
            f"{row.best * 1e3:.2f} ms",
            f"{rows[0].median / row.median:.1f}",
            f"{row.saved:.0%}",
            f"{row.size / 1e6:.1f} MB",
        )
    return as_text(made)


def _times(networks: dict[str, Callable[[Tensor], Tensor]], batches: Sequence[Tensor]) -> dict[str, list[float]]:
    """Seconds of calls, each network's in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    with no_garbage_collection(), torch.inference_mode():
        for number in range(_ROUNDS):
            x = batches[number % len(batches)]
            for name, network in networks.items():
                seconds[name].append(timed(partial(network, x)))
    return seconds


def _saved(compiled: CompiledModule, x: Tensor) -> float:
    """Net share of the convolutions' multiply-adds that is saved, on one batch."""
    counts = [layer.macs for layer in compiled.stats(x).values()]
    return sum(counts[1:], counts[0]).reduction if counts else 0.0


def _size(compiled: CompiledModule) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.haste"
        compiled.save(path)
        return path.stat().st_size


def _share(which: Tensor) -> float:
    return float(which.float().mean())
