"""Files that are whole or not there, and folders for what is made on the way; nothing is left of either."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

_MARK = "haste-"
_SETTLED = 60.0
"""Seconds after which a folder that nobody holds was left behind: until then, whoever made it may be about to."""


@contextlib.contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[Path]:
    """A new file's path, beside ``path``: it becomes ``path`` in the end, or is removed if that isn't reached.

    Its name is like no other's. What isn't a plain file, such as a pipe, is written to as it is.

    Raises:
        OSError: it can't be made there.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        yield path
        return
    made = path.with_name(f".{_MARK}{secrets.token_hex(8)}.tmp")
    try:
        yield made
        os.replace(made, path)
    finally:
        made.unlink(missing_ok=True)


def write_text(path: str | PathLike[str], text: str) -> None:
    """Write a file of text (UTF-8), which others see whole or not at all.

    Raises:
        OSError: it can't be written.
    """
    with replacing(path) as made:
        made.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder that is removed in the end; those that processes left behind that were killed are removed now.

    Args:
        parent: where; None: where the system has such folders.
    """
    home = parent or Path(tempfile.gettempdir())
    _remove_left(home)
    folder = Path(tempfile.mkdtemp(prefix=_MARK, suffix=".tmp", dir=home))
    try:
        # The lock ends with the process, however that ends.
        with _held(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder's lock.

    Raises:
        OSError: another process does, or it is gone.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove_left(home: Path) -> None:
    for left in home.glob(f"*{_MARK}*.tmp"):
        # Another process may remove it at the same time, or it may be another user's.
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime < _SETTLED:
                continue
            if left.is_dir():
                with _held(left):
                    shutil.rmtree(left)
            elif left.name.startswith("."):
                left.unlink()
