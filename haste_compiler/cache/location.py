"""Where the cache is, and how large it may become: what the environment says of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from haste_compiler.errors import ConfigError

_DEFAULT_BYTES = 10**9
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def cache_directory() -> Path:
    """Where compiled code and measurements are kept: ``$HASTE_CACHE``, or haste-compiler in the user's cache."""
    chosen = os.environ.get("HASTE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "haste-compiler"


def size_limit() -> int:
    """Bytes that the cache may take: ``$HASTE_CACHE_SIZE``, by default 1 GB.

    Raises:
        ConfigError: the variable is no size.
    """
    given = os.environ.get("HASTE_CACHE_SIZE", "").strip()
    if not given:
        return _DEFAULT_BYTES
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", given, re.ASCII | re.IGNORECASE)
    if found is None:
        raise ConfigError(f"HASTE_CACHE_SIZE is {given!r}: allowed is a size such as 500M or 2G, or a number of bytes")
    return int(float(found[1]) * _UNITS[found[2].upper()])
