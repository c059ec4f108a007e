"""What a benchmark is doing, on the terminal's last line."""

import sys


def tick(doing: str) -> None:
    """Write over the line on standard error; an empty text clears it."""
    print(f"\r\033[K{doing}", end="", file=sys.stderr, flush=True)
