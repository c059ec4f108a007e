"""What commands print: results on standard output, as text or JSON; progress on standard error."""

from __future__ import annotations

import json
import math
from typing import Any

import click


class FellShort(Exception):
    """The compiled network missed what was asked of it; what was found has been printed already."""


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def note(text: str) -> None:
    """Say what is being done."""
    click.echo(text, err=True)


def emit(as_json: bool, data: Any, text: str) -> None:
    """Print a result.

    Args:
        as_json: which of the two.
        data: for machines; numbers that are not finite become strings.
        text: for people.
    """
    click.echo(json.dumps(_finite(data), indent=2, allow_nan=False) if as_json else text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
