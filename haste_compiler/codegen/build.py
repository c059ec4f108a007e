"""From the TVM module to machine code, or the same from the cache on disk."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import torch
import tvm
from tvm import relax

from haste_compiler.cache import entries
from haste_compiler.cache.folder import Folder
from haste_compiler.codegen.library import Code
from haste_compiler.codegen.loading import Library
from haste_compiler.codegen.machine import Machine
from haste_compiler.codegen.program import Lowered
from haste_compiler.errors import HasteError, last_line
from haste_compiler.interrupts import check_interrupt

_DIGEST_BYTES = 32
"""Length of the checksum at the end of a library in the cache."""


def build(lowered: Lowered, machine: Machine, cache_key: str | None = None) -> Code:
    """Machine code for a lowered network.

    Args:
        lowered: the network.
        machine: what it was lowered for.
        cache_key: names the code in the cache on disk; None: neither read nor written, as it must
            be for code that can't run here.

    Raises:
        HasteError: TVM failed to generate code, which is a defect of this compiler.
    """
    stored = None if cache_key is None else _load(cache_key, machine)
    if stored is not None:
        return stored
    try:
        mod = machine.plan(lowered.mod)
        check_interrupt()
        with machine.target, machine.pass_context(), machine.compiling():
            executable = relax.build(mod, machine.generated, relax_pipeline=tvm.transform.Sequential([]))
    except Exception as error:
        raise HasteError(f"TVM could not generate code for {machine.target}: {last_line(error)}") from None
    check_interrupt()
    code = Code(executable, machine.target)
    if cache_key is None:
        return code
    _store(code, cache_key)
    # The library that was linked takes less memory than what LLVM keeps of code made in this process.
    return _load(cache_key, machine) or code


def cache_key(graph: str, machine: Machine, *extra: object) -> str:
    """A name for the code that a graph compiles to; it changes with the versions of TVM, PyTorch and this package."""
    digest = hashlib.sha256()
    for part in (
        graph,
        str(machine.target),
        machine.threads,
        tvm.__version__,
        torch.__version__,
        _source_digest(),
        *extra,
    ):
        digest.update(repr(part).encode())
        digest.update(b"\\0")
    return digest.hexdigest()[:40]


@lru_cache(maxsize=1)
def _source_digest() -> str:
    """Of all of this package's code: what a changed file would lower otherwise is never served from the cache."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _load(key: str, machine: Machine) -> Code | None:
    """The stored code; None where there is none that can be trusted, or that is whole: then it is made anew."""
    data = entries.read(_file(key))
    if data is None:
        return None
    library, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    # The system's loader may not survive a damaged file.
    if _digest(key, library) != digest:
        return None
    try:
        with machine.compiling():
            loaded = Library(library)
    except (OSError, HasteError):
        return None
    return Code(loaded.module, machine.target, loaded)


def _store(code: Code, key: str) -> None:
    def linked(folder: Folder) -> bytes:
        with folder.working() as place:
            made = place / "library.so"
            code.write_library(made)
            data = made.read_bytes()
        return data + _digest(key, data)

    entries.write(_file(key), linked)


def _file(key: str) -> str:
    return f"{key}.so"


def _digest(key: str, library: bytes) -> bytes:
    """Of a library under a name: one that was moved under another is no more good than a damaged one."""
    return hashlib.sha256(key.encode() + library).digest()
