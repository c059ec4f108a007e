"""Trained networks whose filters become sums of ternary ones, without training: `python -m benchmarks.ternary_sums`."""

import argparse

import torch
from torch import Tensor, nn

from benchmarks.cases import ALL_IMAGES
from haste_compiler.prom.approximation import approximate

TERMS = (1, 2, 3, 4)

BATCH = 20
"""Images of a call."""


def layers(model: nn.Module, *, pointwise: bool) -> list[str]:
    """The convolutions that become ternary: those of 1×1, or all but the first and depthwise ones."""
    convolutions = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    if pointwise:
        return [name for name, layer in convolutions if layer.kernel_size == (1, 1)]
    return [name for name, layer in convolutions[1:] if layer.groups == 1]


@torch.inference_mode()
def classes(model: nn.Module, calls: list[Tensor]) -> Tensor:
    """The class of every image."""
    return torch.cat([model(x).argmax(1) for x in calls])


def main() -> None:
    """Count the images that are classified right, and as before, for every case that has labels."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ternary_sums", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument("--limit", type=int, default=10_000, help="most images of a network")
    limit = parser.parse_args().limit
    torch.set_num_threads(1)
    print("| network | layers | terms | right | as before |\n|---|---|---:|---:|---:|")
    for name, make in ALL_IMAGES.items():
        case = make(BATCH)
        # Images may be sorted by class: some of all.
        step = -(-len(case.checked) * BATCH // limit)
        calls = case.checked[::step]
        assert case.labels is not None
        labels = torch.cat(case.labels.split(BATCH)[::step])
        before = classes(case.model, calls)
        print(f"| {name} | none | | {_share(before == labels)} | |", flush=True)
        for pointwise in (True, False):
            names = layers(case.model, pointwise=pointwise)
            for terms in TERMS:
                found = classes(approximate(case.model, names, terms), calls)
                which = f"{len(names)}, {'1×1' if pointwise else 'all but the first and depthwise ones'}"
                print(
                    f"| {name} | {which} | {terms} | {_share(found == labels)} | {_share(found == before)} |",
                    flush=True,
                )


def _share(which: Tensor) -> str:
    return f"{float(which.float().mean()):.1%}"


if __name__ == "__main__":
    main()
