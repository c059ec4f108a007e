"""``Folder``: the cache's folder, opened once and found to be the user's own. What is in it is reached from there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from haste_compiler.cache.notices import say_once
from haste_compiler.cache.trust import distrust

_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600
_ENTRY = re.compile(r"[0-9a-f]{40}\.so|(costs|tuning)-[0-9a-f]{40}\.(json|busy)")
_TEMPORARY = re.compile(r"temporary-[0-9a-f]{16}")

_YOUNG_SECONDS = 10.0
"""What is being written is locked, but not in the instant in which it is made."""


@dataclass(frozen=True)
class Entry:
    """A file of the cache.

    Attributes:
        name: of the file.
        size: in bytes.
        used: when it was last read or written, by ``time.time``.
    """

    name: str
    size: int
    used: float

    @property
    def is_code(self) -> bool:
        """Whether it is machine code, which is made again in seconds; measurements take minutes and little room."""
        return self.name.endswith(".so")


class Folder:
    """An open folder; a context manager.

    Args:
        path: of the folder.

    Raises:
        OSError: it can't be opened.
        PermissionError: somebody else could have written what is in it; the message says why.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        reason = distrust(os.fstat(self._descriptor))
        if reason:
            os.close(self._descriptor)
            raise PermissionError(reason)

    @classmethod
    def made(cls, path: Path) -> Folder:
        """The folder, which is made first where there is none. Nobody but the user may enter it, whatever the umask.

        Raises:
            OSError, PermissionError: see the class.
        """
        for each in (*reversed(path.parents), path):
            if not each.exists():
                each.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)
        return cls(path)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._descriptor)

    def read(self, name: str) -> bytes | None:
        """What a file holds, which counts as used now; None where there is none, or, with a warning, it isn't trusted.

        What is returned was read from the very file that was checked.
        """
        try:
            with self._opened(name) as descriptor:
                status = os.fstat(descriptor)
                reason = distrust(status) if stat.S_ISREG(status.st_mode) else "it is no plain file"
                if reason:
                    raise PermissionError(reason)
                with contextlib.suppress(OSError):
                    os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))
                with open(descriptor, "rb", closefd=False) as file:
                    return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            say_once(f"{self.path / name} in the cache isn't used: {error.strerror or error}")
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file, under another name first: another process may read meanwhile.

        Raises:
            OSError: it can't be written.
        """
        made, own = _temporary_name(), self._descriptor
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(made, flags, _PRIVATE_FILE, dir_fd=own)
        try:
            with open(descriptor, "wb") as file:
                _claim(descriptor)
                file.write(data)
                file.flush()
                os.replace(made, name, src_dir_fd=own, dst_dir_fd=own)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(made, dir_fd=own)
            raise

    @contextlib.contextmanager
    def working(self) -> Iterator[Path]:
        """A folder in this one to work in, gone afterwards.

        Raises:
            OSError: it can't be made.
        """
        name = _temporary_name()
        os.mkdir(name, _PRIVATE_FOLDER, dir_fd=self._descriptor)
        try:
            with self._opened(name) as descriptor:
                _claim(descriptor)
                yield self.path / name
        finally:
            self._remove(name)

    def written(self, name: str) -> float | None:
        """When a file was written, by ``time.time``; None: there is none, or it isn't trusted."""
        try:
            status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return None
        return status.st_mtime if stat.S_ISREG(status.st_mode) and distrust(status) is None else None

    def entries(self) -> list[Entry]:
        """The files that belong to the cache, those first that were used longest ago. Other files are left alone."""
        found = []
        for name in filter(_ENTRY.fullmatch, os.listdir(self._descriptor)):
            # Another process may have removed it.
            with contextlib.suppress(OSError):
                status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
                found.append(Entry(name, status.st_size, max(status.st_atime, status.st_mtime)))
        return sorted(found, key=lambda entry: entry.used)

    def remove(self, name: str) -> None:
        """Remove a file, if it is still there and can be."""
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._descriptor)

    def sweep(self) -> None:
        """Remove what processes that were killed have left half made."""
        for name in filter(_TEMPORARY.fullmatch, os.listdir(self._descriptor)):
            # What can't be opened or locked is somebody's work, or gone.
            with contextlib.suppress(OSError), self._opened(name) as descriptor:
                if time.time() - os.fstat(descriptor).st_mtime > _YOUNG_SECONDS:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._remove(name)

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        # Never through a link, and without waiting for who writes to a pipe.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(name, flags, dir_fd=self._descriptor)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _remove(self, name: str) -> None:
        shutil.rmtree(name, ignore_errors=True, dir_fd=self._descriptor)
        self.remove(name)


def _temporary_name() -> str:
    return f"temporary-{secrets.token_hex(8)}"


def _claim(descriptor: int) -> None:
    """Lock what is being made, as long as this process lives: then nobody sweeps it away."""
    # Where there are no locks nothing is swept either.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
