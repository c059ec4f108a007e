"""Kernels for AArch64, run on any machine: cross-compiled, and called by a small program under an emulator."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm_ffi.libinfo

from haste_compiler.codegen.library import Code
from haste_compiler.codegen.processor import architecture, own_architecture
from haste_compiler.codegen.target import parse_target

AARCH64 = "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a76"
"""What is cross-compiled for."""

COMPILER = "aarch64-linux-gnu-g++"

EMULATOR = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]
"""Runs a program for AArch64, with the cross compiler's C library."""


def is_missing(tool: str) -> bool:
    """Whether a program is not in the PATH."""
    return shutil.which(tool) is None


_MISSING = [tool for tool in (COMPILER, EMULATOR[0]) if is_missing(tool)]

needs_emulator = pytest.mark.skipif(
    bool(_MISSING), reason=f"{' and '.join(_MISSING)} not found: install g++-aarch64-linux-gnu and qemu-user"
)


def is_foreign(target: str) -> bool:
    """Whether code for a target must be run by the emulator."""
    return architecture(parse_target(target)) != own_architecture()


class EmulatedLibrary:
    """A library for AArch64; ``library[name]`` is a kernel that takes TVM tensors, as one of this machine does.

    Args:
        code: what ``tvm.compile`` made of the kernels.
        target: what for.
    """

    def __init__(self, code: Any, target: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="haste-")
        self._path = Path(self._folder.name) / "kernels.so"
        Code(code, parse_target(target)).write_library(self._path)

    def __getitem__(self, name: str) -> Callable[..., None]:
        def call(*tensors: Any) -> None:
            arrays = [tensor.numpy() for tensor in tensors]
            data = self._path.with_name("tensors")
            data.write_bytes(b"".join(array.tobytes() for array in arrays))
            shapes = [f"{array.dtype}:{'x'.join(map(str, array.shape))}" for array in arrays]
            command = [*EMULATOR, str(_host()), str(self._path), name, str(data), *shapes]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            written = data.read_bytes()
            for tensor, array in zip(tensors, arrays, strict=True):
                tensor.copyfrom(np.frombuffer(written[: array.nbytes], array.dtype).reshape(array.shape))
                written = written[array.nbytes :]

        return call


@lru_cache(maxsize=1)
def _host() -> Path:
    """The program that calls kernels, built once for each version of it."""
    source = Path(__file__).with_name("kernel_host.cpp")
    made = Path(tempfile.mkdtemp(prefix="haste-")) / "kernel_host"
    headers = tvm_ffi.libinfo.find_include_path()
    command = [COMPILER, "-std=c++17", "-O1", "-rdynamic", "-I", headers, str(source), "-o", str(made), "-ldl"]
    subprocess.run(command, check=True, env={**os.environ, "LC_ALL": "C"})
    return made
