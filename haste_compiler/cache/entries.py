"""Reading and writing the cache by name. Trouble costs time, so it is said once and the work goes on without it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from haste_compiler.cache.folder import Entry, Folder
from haste_compiler.cache.location import cache_directory, size_limit
from haste_compiler.cache.notices import say_once
from haste_compiler.errors import HasteError


def read(name: str) -> bytes | None:
    """What the cache holds under a name; None: nothing that can be trusted."""
    with _opened(Folder) as folder:
        return None if folder is None else folder.read(name)


def write(name: str, make: Callable[[Folder], bytes]) -> None:
    """Keep something under a name, and within the limit of ``$HASTE_CACHE_SIZE``.

    Args:
        name: of the file.
        make: makes what it holds, and may work in the folder for that.

    Raises:
        ConfigError: that variable is no size.
    """
    limit = size_limit()
    with _opened(Folder.made) as folder:
        if folder is None:
            return
        try:
            folder.sweep()
            data = make(folder)
            if len(data) > limit:
                say_once(f"{name} isn't kept in the cache: it has {len(data)} bytes, HASTE_CACHE_SIZE is {limit}")
                return
            folder.write(name, data)
        except (OSError, HasteError) as error:
            reason = getattr(error, "strerror", None) or error
            say_once(
                f"the cache {folder.path} can't be written ({reason}): every process compiles and measures anew; "
                "HASTE_CACHE names another folder"
            )
            return
        _evict(folder, limit, keep=name)


def read_json(name: str) -> Any:
    """What ``write_json`` kept.

    Raises:
        ValueError: there is nothing that can be trusted, or it is damaged.
    """
    data = read(name)
    if data is None:
        raise ValueError(f"the cache holds no {name}")
    return json.loads(data)


def write_json(name: str, value: Any) -> None:
    """Keep plain values under a name, see ``write``."""
    write(name, lambda folder: json.dumps(value, indent=1).encode())


def written(name: str) -> float | None:
    """When something was kept, by ``time.time``; None: there is nothing that can be trusted."""
    with _opened(Folder) as folder:
        return None if folder is None else folder.written(name)


def entries() -> list[Entry]:
    """All that the cache holds, what was used longest ago first."""
    with _opened(Folder) as folder:
        return [] if folder is None else folder.entries()


def clean() -> list[Entry]:
    """Remove all that the cache holds; returns what is gone. Files that aren't the cache's stay."""
    with _opened(Folder) as folder:
        if folder is None:
            return []
        folder.sweep()
        before = folder.entries()
        for entry in before:
            folder.remove(entry.name)
        left = {entry.name for entry in folder.entries()}
        return [entry for entry in before if entry.name not in left]


def _evict(folder: Folder, limit: int, keep: str) -> None:
    """Remove what was used longest ago, but for ``keep``, until the rest is within the limit; measurements last."""
    found = folder.entries()
    size = sum(entry.size for entry in found)
    for entry in sorted(found, key=lambda entry: (not entry.is_code, entry.used)):
        if size <= limit:
            return
        if entry.name != keep:
            folder.remove(entry.name)
            size -= entry.size


@contextlib.contextmanager
def _opened(opener: Callable[..., Folder]) -> Iterator[Folder | None]:
    """The cache's folder; None where there is none or, with a warning, it can't be used."""
    path = cache_directory()
    try:
        folder = opener(path)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        say_once(
            f"the cache {path} isn't used ({error.strerror or error}): every process compiles and measures anew; "
            "HASTE_CACHE names another folder"
        )
        yield None
        return
    with folder:
        yield folder
