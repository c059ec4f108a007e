"""``haste demo``."""

from __future__ import annotations

import click

from haste_compiler.cli.output import emit, json_option
from haste_compiler.errors import HasteError


@click.command(short_help="Compile and validate the carried network.")
@json_option
def demo(as_json: bool) -> None:
    """Compile the small network that the package carries, classify digits it has never seen, validate it; then merge in
    every layer that can, faster or not, and say what that saves.

    Needs scikit-learn, which has the digits: pip install haste-compiler[demo].
    """
    from rich.console import Console

    from haste_compiler.demo.__main__ import merge_everywhere, run

    console = Console(stderr=True)
    try:
        report = run(console)
    except ModuleNotFoundError as error:
        raise HasteError(str(error)) from None
    emit(as_json, report.to_dict(), str(report))
    merge_everywhere(console)
