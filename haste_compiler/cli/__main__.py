"""``python -m haste_compiler.cli`` is ``haste``."""

from haste_compiler.cli import run

run()
