"""Loading a shared library from memory: what was checked is what runs, whatever becomes of a file meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tvm_ffi

from haste_compiler.errors import HasteError, last_line

ENTRY_POINT = "vm_load_executable"
"""What every network's library has, for ``relax.VirtualMachine`` to call."""

_numbers = itertools.count(1)


class Library:
    """A network's machine code, loaded. It stays so as long as the process lives.

    Args:
        data: the shared library.

    Attributes:
        data: the same.
        module: what ``relax.VirtualMachine`` takes.
        path: what the system's loader knows it by. Nothing needs to be there any more.

    Raises:
        HasteError: it can't be loaded, or isn't a network's.
        OSError: there is nowhere to load it from.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        with _placed(data) as self.path:
            try:
                self.module: Any = tvm_ffi.get_global_func("ffi.Module.load_from_file.so")(self.path, "so")
            except RuntimeError as error:
                raise HasteError(f"the machine code can't be loaded: {last_line(error)}") from None
        if not self.module.implements_function(ENTRY_POINT):
            raise HasteError(f"the machine code is no network's: it has no {ENTRY_POINT}")
        # What the code made may live longer than the module.
        tvm_ffi.get_global_func("ffi.ModuleGlobalsAdd")(self.module)


@contextlib.contextmanager
def _placed(data: bytes) -> Iterator[str]:
    """The path of a file that holds ``data``, and that nobody else can change."""
    descriptor = _sealed(data)
    if descriptor is not None:
        try:
            yield _path(descriptor)
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory(prefix="haste-") as folder:
        path = Path(folder) / "library.so"
        path.write_bytes(data)
        yield str(path)


def _sealed(data: bytes) -> int | None:
    """A file in memory that can't be changed any more; None where the system has no such."""
    if not hasattr(os, "memfd_create") or not os.path.exists("/proc/self/fd"):
        return None
    try:
        descriptor = os.memfd_create("haste", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        return None
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return descriptor


def _path(descriptor: int) -> str:
    """A path that no library was loaded by: descriptors' numbers come again, and the system's loader goes by paths.

    Dots and slashes, which mean nothing in a path, count in it.
    """
    count = f"{next(_numbers):b}".replace("1", "./").replace("0", "/")
    return f"/proc/self/fd/{count}{descriptor}"
