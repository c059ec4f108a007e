"""Accuracy in float32, in int8 and with ternary weights: `python -m benchmarks.prom FOLDER --test TEST`.

FOLDER is what `python -m haste_compiler.prom.train` wrote. Ternary weights are counted with training and without.
`--plot` draws the curves of one or several folders.
"""

import argparse
import copy
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import haste_compiler
from benchmarks.report import machine
from haste_compiler.prom import prepare, quantized_layers
from haste_compiler.prom.approximation import approximate
from haste_compiler.prom.data import Labelled, normalized, read_data
from haste_compiler.prom.train import FLOAT_WEIGHTS, LOG, load_trained
from haste_compiler.prom.training import TESTED

Network = Callable[[Tensor], Tensor]

TERMS = (1, 2, 3, 4)
"""Ternary filters whose sum stands for each pointwise one, where nothing is trained."""


def networks(folder: Path, example: Tensor) -> Iterator[tuple[str, Network]]:
    """What is compared, by name, each made when it is asked for.

    Args:
        folder: of the trained network.
        example: images of one call, (N, C, H, W).
    """
    plain, converted = load_trained(folder, FLOAT_WEIGHTS), load_trained(folder)
    pointwise = [name for name, kind in quantized_layers(prepare(plain, (example,))).items() if kind == "ternary"]
    yield "float32", plain
    yield "int8, compiled, not trained for it", _compiled(plain, example)
    for terms in TERMS:
        kind = "ternary" if terms == 1 else f"sums of {terms} ternary filters"
        yield f"{kind}, not trained", approximate(plain, pointwise, terms)
    yield "ternary, trained, inputs in float32", converted
    # Weights that are rounded stay what they are when they are rounded again.
    yield "ternary, trained, as training computes it", prepare(converted, (example,)).eval()
    yield "ternary, trained, compiled in int8", _compiled(converted, example)


def _compiled(network: nn.Module, example: Tensor) -> Network:
    compiled = haste_compiler.compile(copy.deepcopy(network), (example.contiguous(),), precision="int8")
    return lambda x: compiled(x.contiguous())


def table(folder: Path, test: Labelled) -> list[tuple[str, float, float]]:
    """For every network its name, the share that it classifies right, and that in the float32 network's class."""
    example = normalized(test.pixels[:TESTED])
    expected: Tensor | None = None
    rows = []
    for name, network in networks(folder, example):
        found = _classes(network, test)
        expected = found if expected is None else expected
        rows.append((name, _share(found == test.labels), _share(found == expected)))
        print(f"| {name} | {rows[-1][1]:.2%} | {rows[-1][2]:.2%} |", flush=True)
    return rows


@torch.inference_mode()
def _classes(network: Network, test: Labelled) -> Tensor:
    return torch.cat([network(normalized(part)).argmax(1) for part in test.pixels.split(TESTED)])


def _share(which: Tensor) -> float:
    return float(which.float().mean())


def plot(folders: Sequence[Path], path: Path) -> None:
    """Draw accuracy and learning rate over the epochs of both phases, one line a folder."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, folder in enumerate(folders):
        log = json.loads((folder / LOG).read_text(encoding="utf-8"))
        start = 0
        for phase, colour in (("float", "tab:blue"), ("prom", "tab:orange")):
            epochs: list[dict[str, Any]] = log["phases"].get(phase, [])
            places = [start + epoch["epoch"] for epoch in epochs]
            values = [100 * epoch["accuracy"] for epoch in epochs]
            title = {"float": "float32", "prom": "ternary and 8 bits"}[phase]
            axes.plot(places, values, ".-", color=colour, label=None if number else title)
            start += len(epochs)
    axes.set_xlabel("epoch")
    axes.set_ylabel("test images classified right, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def main() -> None:
    """Count what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prom", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="+", help="of python -m haste_compiler.prom.train")
    parser.add_argument("--test", help="test images, in the forms that training takes; without: no table")
    parser.add_argument("--plot", type=Path, help="draw the curves into this file (.svg, .png)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.plot is not None:
        plot(given.folder, given.plot)
    if given.test is not None:
        data = read_data(given.test, None if given.test == "digits" else given.test, 32)
        print(", ".join(machine().values()))
        for folder in given.folder:
            print(f"\n| {folder.name}, {len(data[1].labels)} images | right | as float32 |\n|---|---:|---:|")
            table(folder, data[1])


if __name__ == "__main__":
    main()
