"""``haste cache``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from haste_compiler.cache.entries import clean, entries
from haste_compiler.cache.folder import Entry
from haste_compiler.cache.location import cache_directory, size_limit
from haste_compiler.cli.output import emit, json_option


@click.group(short_help="The size of the cache on disk, and emptying it.")
def cache() -> None:
    """Look at the cache of compiled code and measurements, or empty it.

    It lies in $HASTE_CACHE, by default in haste-compiler in the user's cache. $HASTE_CACHE_SIZE limits it, such as
    500M or 2G, by default 1G: what was used longest ago goes first, measurements last.

    \b
    Examples:
      haste cache size
      haste cache clean --json
    """


@cache.command(short_help="Say what is in it.")
@json_option
def size(as_json: bool) -> None:
    """Say where the cache is, what is in it, and how large it may become."""
    found, limit = entries(), size_limit()
    data = {**_described(found), "limit_bytes": limit}
    oldest = f", the oldest used {_days(found[0])} days ago" if found else ""
    emit(as_json, data, f"{cache_directory()}: {_said(found)}{oldest}; limit {limit / 1e6:.1f} MB")


@cache.command("clean", short_help="Empty it.")
@json_option
def clean_up(as_json: bool) -> None:
    """Remove all compiled code and measurements, and what processes that were killed have left. Other files stay."""
    removed = clean()
    emit(as_json, _described(removed), f"{cache_directory()}: removed {_said(removed)}")


def _described(found: Sequence[Entry]) -> dict[str, Any]:
    return {
        "folder": str(cache_directory()),
        "libraries": sum(entry.is_code for entry in found),
        "measurements": sum(not entry.is_code for entry in found),
        "bytes": sum(entry.size for entry in found),
    }


def _said(found: Sequence[Entry]) -> str:
    of = _described(found)
    return f"{of['libraries']} libraries and {of['measurements']} measurements, {of['bytes'] / 1e6:.1f} MB"


def _days(entry: Entry) -> int:
    return int(max(0.0, time.time() - entry.used) / 86400)
