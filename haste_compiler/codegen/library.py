"""Machine code, in memory and as a shared library in a file."""

from __future__ import annotations

import os
import shutil
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm.support import cc
from tvm.target import Target

from haste_compiler.codegen.processor import architecture, own_architecture
from haste_compiler.codegen.target import machine_of
from haste_compiler.errors import HasteError, TargetError, last_line
from haste_compiler.files import scratch_folder

DIGEST_BYTES = 32
"""Length of the checksum at the end of a library in the cache; whoever loads it doesn't read that far."""


class KeptFile:
    """A file that can be read as long as this object lives, whoever deletes it meanwhile.

    Raises:
        OSError: it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self) -> bytes:
        """All of it."""
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(0)
            return file.read()


@dataclass(frozen=True)
class Code:
    """A network's machine code.

    Attributes:
        module: what ``relax.VirtualMachine`` takes.
        target: what it is for.
        file: the library in the cache that it was loaded from. It is kept open, so that it can be read when somebody
            has emptied the cache. None: the code is in memory only.
    """

    module: Any
    target: Target
    file: KeptFile | None = None

    def write_library(self, path: Path) -> None:
        """Write the code as a shared library.

        Raises:
            TargetError: there is no linker for the target.
            HasteError: the linker failed.
            OSError: the file can't be written.
        """
        if self.file is not None:
            path.write_bytes(self.file.read()[:-DIGEST_BYTES])
            return
        try:
            link = cc.cross_compiler(find_linker(machine_of(self.target).host))
            with scratch_folder(path.parent) as folder:
                self.module.export_library(str(path), fcompile=link, workspace_dir=str(folder))
        except RuntimeError as error:
            raise HasteError(f"code for {self.target} can't be linked: {last_line(error)}") from None


def find_linker(target: Target) -> str:
    """The program that links for a CPU target.

    Raises:
        TargetError: it is not installed; the message names it.
    """
    wanted = architecture(target)
    if wanted == own_architecture():
        names = ["g++", "clang++", "c++"]
    else:
        names = [f"{wanted}-linux-gnu-gcc", f"{wanted}-linux-gnu-g++"]
    for name in names:
        if shutil.which(name):
            return name
    raise TargetError(f"linking code for {wanted} needs {' or '.join(names)}, and none of them is in the PATH")
