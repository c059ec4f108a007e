"""``haste demo``."""

from __future__ import annotations

import click

from haste_compiler.cli.output import emit, json_option
from haste_compiler.errors import HasteError


@click.command(short_help="Compile the carried network in three ways and compare.")
@json_option
def demo(as_json: bool) -> None:
    """Compile the small network that the package carries in float32, in int8 and with HASTE in every layer.

    Each is held against PyTorch on digits that it has never seen: right answers, time, multiply-adds saved, size.

    Needs scikit-learn, which has the digits: pip install haste-compiler[demo].
    """
    from rich.console import Console

    from haste_compiler.demo.__main__ import LEGEND, run
    from haste_compiler.demo.comparison import table

    console = Console(stderr=True)
    try:
        rows, batch = run(console)
    except ModuleNotFoundError as error:
        raise HasteError(str(error)) from None
    emit(as_json, {"batch": batch, "networks": [vars(row) for row in rows]}, table(rows, batch))
    if not as_json:
        console.print(LEGEND)
