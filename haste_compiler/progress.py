"""What takes long, on standard error: a bar where that is a terminal, elsewhere a line a phase."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Tick = Callable[[str, float], object]
"""Called with what is being done and which part of all is over, 0 to 1."""

Step = Callable[[str, str], object]
"""Called with the phase that the work is in, and which of its steps is done; "" where it has but one."""


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
        say = _a_line_a_phase(title)
        yield lambda doing, part: say(doing)


@contextlib.contextmanager
def endless(title: str, shown: bool = True) -> Iterator[Step]:
    """Show what is being done where nobody knows how much there is to do.

    Args:
        title: of it all, such as "validating".
        shown: False shows nothing.
    """
    if not shown:
        yield lambda phase, step: None
    elif sys.stderr.isatty():
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda phase, step: bar.update(task, description=_line(title, f"{phase}, {step}" if step else phase))
    else:
        say = _a_line_a_phase(title)
        yield lambda phase, step: say(phase)


def _a_line_a_phase(title: str) -> Callable[[str], None]:
    said: list[str] = []

    def say(phase: str) -> None:
        if not said or said[-1] != phase:
            said.append(phase)
            print(_line(title, phase), file=sys.stderr, flush=True)

    return say


def _line(title: str, doing: str) -> str:
    return f"{title}: {doing}" if doing else title
