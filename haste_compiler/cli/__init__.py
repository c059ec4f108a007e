"""The ``haste`` command: a file for each of its commands, which ``commands.py`` gathers."""

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: without the program's name; None: those of the process.
    """
    try:
        # It may be interrupted here already.
        from haste_compiler.cli.commands import run_command

        return run_command(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def run() -> NoReturn:
    """Run the command line as a process of its own."""
    code = main()
    # All is said: what is left of the process's end isn't worth a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Python kills itself by a signal if an interrupt has left an `exec` of text, and hasn't run another since.
    exec("")
    sys.exit(code)


__all__ = ["main", "run"]
