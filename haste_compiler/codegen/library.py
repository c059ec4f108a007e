"""Machine code, in memory and as a shared library."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm.support import cc
from tvm.target import Target

from haste_compiler.codegen.loading import Library
from haste_compiler.codegen.processor import architecture, own_architecture
from haste_compiler.codegen.target import machine_of
from haste_compiler.errors import HasteError, TargetError, last_line
from haste_compiler.files import scratch_folder


@dataclass(frozen=True)
class Code:
    """A network's machine code.

    Attributes:
        module: what ``relax.VirtualMachine`` takes.
        target: what it is for.
        library: the shared library that it was loaded from; None: it was made in this process.
    """

    module: Any
    target: Target
    library: Library | None = None

    def write_library(self, path: Path) -> None:
        """Write the code as a shared library.

        Raises:
            TargetError: there is no linker for the target.
            HasteError: the linker failed.
            OSError: the file can't be written.
        """
        if self.library is not None:
            path.write_bytes(self.library.data)
            return
        try:
            link = cc.cross_compiler(find_linker(machine_of(self.target).host))
            # Beside the library: whoever sweeps up after a process that was killed finds all of it.
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
