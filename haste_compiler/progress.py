"""What takes long, on standard error: a bar where that is a terminal, elsewhere a line a phase."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import Progress

Tick = Callable[[str, float], object]
"""Called with what is being done and which part of all is over, 0 to 1."""


@contextlib.contextmanager
def progress(title: str, shown: bool = True) -> Iterator[Tick]:
    """Show what is being done.

    Args:
        title: of it all, such as "searching".
        shown: False shows nothing.
    """
    if not shown:
        yield lambda doing, part: None
    elif sys.stderr.isatty():
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=1.0)
            yield lambda doing, part: bar.update(task, description=_line(title, doing), completed=part)
    else:
        said: list[str] = []

        def say(doing: str, part: float) -> None:
            if not said or said[-1] != doing:
                said.append(doing)
                print(_line(title, doing), file=sys.stderr, flush=True)

        yield say


def _line(title: str, doing: str) -> str:
    return f"{title}: {doing}" if doing else title
