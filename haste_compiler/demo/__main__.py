"""Compile the carried network, classify the held-out digits, validate and print the table: the main job in one go."""

import time

import torch
from rich.console import Console

import haste_compiler
from haste_compiler.demo import held_out_digits, load_network

BATCH = 20
"""Images in one call; divides the 360 held-out ones, so that one specialisation of the network serves all calls."""

MIN_AGREEMENT = 0.97
"""Least share of images that the compiled network must put into the class that the original puts them into."""


def main() -> None:
    """Run the demonstration and print what it found."""
    console = Console()
    print(run(console))
    merge_everywhere(console)


def merge_everywhere(console: Console) -> haste_compiler.ValidationReport:
    """Say what merging does where it isn't left to the cost model.

    Args:
        console: where to say it.
    """
    network = load_network()
    images, labels = held_out_digits()
    batches = list(images.split(BATCH))
    config = haste_compiler.HasteConfig(cost_model=False)
    compiled = haste_compiler.compile(network, (batches[0],), target="llvm", config=config)
    report = haste_compiler.validate(network, compiled, batches, labels=labels)
    console.print(
        f"Merging in every eligible layer, faster or not: {report.mac_reduction:.1%} fewer multiply-adds, "
        f"{report.agreement:.1%} of the digits in the original's class, "
        f"{report.speedup:.2f} times the speed of the dense compile."
    )
    return report


def run(console: Console) -> haste_compiler.ValidationReport:
    """Run the demonstration.

    Args:
        console: where to say what is being done.

    Raises:
        ValidationError: the compiled network disagrees with the original on too many images.
        ModuleNotFoundError: scikit-learn, which carries the images, is not installed.
    """
    network = load_network()
    images, labels = held_out_digits()
    batches = list(images.split(BATCH))
    console.print(f"A residual network trained on handwritten digits, and {len(images)} digits it has never seen.")

    start = time.perf_counter()
    compiled = haste_compiler.compile(network, (batches[0],), target="llvm")
    console.print(f"Compiled for this machine in {time.perf_counter() - start:.1f} s.")

    predicted = torch.cat([compiled(batch).argmax(dim=1) for batch in batches])
    right = int((predicted == labels).sum())
    console.print(f"The compiled network classifies {right} of {len(labels)} right ({right / len(labels):.1%}).")

    return haste_compiler.validate(network, compiled, batches, labels=labels, min_agreement=MIN_AGREEMENT)


if __name__ == "__main__":
    main()
