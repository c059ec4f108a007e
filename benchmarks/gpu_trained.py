"""A trained network on a CUDA card, how right and how fast: ``python -m benchmarks.gpu_trained``."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

import haste_compiler
from benchmarks.cases import ABSENT
from benchmarks.gpu import seconds, tf32
from haste_compiler import HasteConfig
from tests import zoo

NETWORK = "resnet18"
_BATCH = 250
_PHOTOGRAPHS = 32

_FORCED = HasteConfig(cost_model=False)
WAYS: dict[str, tuple[str, HasteConfig]] = {
    **{f"dense {precision}": (precision, HasteConfig(enabled=False)) for precision in ("fp32", "tf32", "bf16")},
    "dense fp32 without Winograd": ("fp32", HasteConfig(enabled=False, winograd=0)),
    "HASTE fp32": ("fp32", HasteConfig()),
    "HASTE everywhere fp32": ("fp32", _FORCED),
    "HASTE everywhere fp32, tolerance 0.5": ("fp32", _FORCED.replace(tolerance=0.5, flat_tolerance=0.25)),
    "HASTE tf32": ("tf32", HasteConfig()),
}
"""Precision and configuration of each way to compile the network."""


@dataclass(frozen=True)
class Row:
    """One way to run the network.

    Attributes:
        way: which.
        points_lost: of the test images' accuracy in eager float32, in percent of them.
        merged: layers that HASTE merges at the size of the test images, and at that of the photographs.
        milliseconds: median of a batch of photographs, 224×224; NaN where nothing was timed.
        agreement: share of the photographs whose first class is eager float32's.
    """

    way: str
    points_lost: float
    merged: tuple[int, int]
    milliseconds: float
    agreement: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write JSON; 1 where the card or the trained network is absent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="test images, of the 10,000")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    given = parser.parse_args(arguments)
    for there, absent in (
        (torch.cuda.is_available(), "it needs a CUDA card, and PyTorch finds none"),
        (zoo.trained_module() is not None, ABSENT),
    ):
        if not there:
            print(f"benchmarks.gpu_trained: {absent}", file=sys.stderr)
            return 1
    right, rows = measure(given.images, given.rounds)
    Console(soft_wrap=True).print(markdown(right, rows), markup=False)
    if given.json:
        found = {"card": torch.cuda.get_device_name(), "right": right, "rows": [asdict(row) for row in rows]}
        given.json.write_text(json.dumps(found, indent=1))
    return 0


def measure(images: int, rounds: int, device: str = "cuda", photographs: int = _PHOTOGRAPHS) -> tuple[float, list[Row]]:
    """Share of the images that eager float32 gets right, and every way's row; on a CPU nothing is timed."""
    model = zoo.trained(NETWORK).to(device)
    x, labels = (tensor.to(device) for tensor in zoo.cifar_images(NETWORK, images))
    photos = zoo.photographs(photographs).to(device)
    batches = list(x.split(_BATCH))
    with tf32(False), torch.no_grad():
        right = _right(torch.cat([model(batch) for batch in batches]), labels)
        classes = model(photos).argmax(1)
    rows = []
    for way, (precision, config) in WAYS.items():
        on_card = device == "cuda"
        compiled = haste_compiler.compile(
            model, target="cuda" if on_card else "llvm", config=config, precision=precision if on_card else None
        )
        lost = 100 * (right - _right(torch.cat([compiled(batch) for batch in batches]), labels))
        merged = _merged(compiled)
        agreement = float((compiled(photos).argmax(1) == classes).float().mean())
        taken = seconds(partial(compiled, photos), rounds) if on_card else float("nan")
        rows.append(Row(way, lost, (merged, _merged(compiled)), 1e3 * taken, agreement))
    return right, rows


def _right(outputs: Tensor, labels: Tensor) -> float:
    return float((outputs.argmax(1) == labels).float().mean())


def _merged(compiled: haste_compiler.CompiledModule) -> int:
    """Layers that merge, at the size that was compiled last."""
    return sum(layer.eligible for layer in compiled.layers)


def markdown(right: float, rows: Sequence[Row]) -> str:
    """A table with a row for each way, times also as a ratio to the dense ones of float32."""
    dense = next(row.milliseconds for row in rows if row.way == "dense fp32")
    lines = [
        f"{NETWORK}: {right:.2%} right in eager float32",
        "",
        "| compiled | points lost | layers merged at 32, 224 | ms at 224 | of dense fp32 | agreement |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = f"{row.milliseconds:.2f} | {row.milliseconds / dense:.2f}"
        merged = ", ".join(map(str, row.merged))
        lines.append(f"| {row.way} | {row.points_lost:.2f} | {merged} | {times} | {row.agreement:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
