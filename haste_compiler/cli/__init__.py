"""The ``haste`` command: compile, validate, search, tune, bench, info, demo; one file each."""

from haste_compiler.cli.main import main

__all__ = ["main"]
