"""What a benchmark is doing, on the terminal's last line."""

import sys


def tick(doing: str) -> None:
    """Write over the line on standard error; an empty text clears it. Nothing where that is no terminal but a file."""
    if sys.stderr.isatty():
        print(f"\r\033[K{doing}", end="", file=sys.stderr, flush=True)
