"""Compile the carried network, classify digits that it has never seen, and print a table: the main job in one go."""

from rich.console import Console

from haste_compiler.demo import held_out_digits, load_network
from haste_compiler.demo.comparison import Row, compare, table

BATCH = 20
"""Images in one call; divides the 360 held-out ones, so that one specialisation of the network serves all calls."""


LEGEND = (
    "right: digits classified right. as PyTorch: in the class that PyTorch finds. Times: the best, and how many times "
    "as fast the median is. int8 needs no calibration. HASTE merges channels that look alike, here even where that "
    "takes longer."
)
"""What the table's columns and rows are."""


def main() -> None:
    """Run the demonstration and print what it found."""
    console = Console()
    rows, batch = run(console)
    print(f"\n{table(rows, batch)}\n")
    console.print(LEGEND)


def run(console: Console) -> tuple[list[Row], int]:
    """Run the demonstration.

    Args:
        console: where to say what is being done.

    Returns:
        What each network does, PyTorch's first, and how many images are in a call.

    Raises:
        ValidationError: a compiled network disagrees with the original on too many images.
        ModuleNotFoundError: scikit-learn, which carries the images, is not installed.
    """
    network = load_network()
    images, labels = held_out_digits()
    console.print(f"A residual network trained on handwritten digits, and {len(images)} digits it has never seen.")
    return compare(network, list(images.split(BATCH)), labels, console), BATCH


if __name__ == "__main__":
    main()
