"""What takes long, on standard error: a bar where that is a terminal, elsewhere a line a phase."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

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
    with _display(title, shown, Progress.get_default_columns(), 1.0) as show:
        yield lambda doing, part: show(doing, doing, part)


@contextlib.contextmanager
def endless(title: str, shown: bool = True) -> Iterator[Step]:
    """Show what is being done where nobody knows how much there is to do.

    Args:
        title: of it all, such as "validating".
        shown: False shows nothing.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with _display(title, shown, columns, None) as show:
        yield lambda phase, step: show(phase, f"{phase}, {step}" if step else phase, None)


@contextlib.contextmanager
def _display(
    title: str, shown: bool, columns: Sequence[ProgressColumn], total: float | None
) -> Iterator[Callable[[str, str, float | None], object]]:
    """A function of the phase, of what is done in it, and of how much of ``total`` is over."""
    if not shown:
        yield lambda phase, doing, part: None
    elif sys.stderr.isatty():
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda phase, doing, part: bar.update(task, description=_line(title, doing), completed=part)
    else:
        say = _a_line_a_phase(title)
        yield lambda phase, doing, part: say(phase)


def _a_line_a_phase(title: str) -> Callable[[str], None]:
    said: list[str] = []

    def say(phase: str) -> None:
        if not said or said[-1] != phase:
            said.append(phase)
            print(_line(title, phase), file=sys.stderr, flush=True)

    return say


def _line(title: str, doing: str) -> str:
    return f"{title}: {doing}" if doing else title
