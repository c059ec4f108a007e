"""From the TVM module to machine code, or the same from the cache on disk."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import tvm
from tvm import relax

from haste_compiler.codegen.library import DIGEST_BYTES, Code, KeptFile
from haste_compiler.codegen.machine import Machine
from haste_compiler.codegen.program import Lowered
from haste_compiler.errors import HasteError, last_line
from haste_compiler.files import scratch_folder, write_text
from haste_compiler.interrupts import check_interrupt


def build(lowered: Lowered, machine: Machine, cache_key: str | None = None) -> Code:
    """Machine code for a lowered network.

    Args:
        lowered: the network.
        machine: what it was lowered for.
        cache_key: names the code in the cache on disk (``cache_directory``); None: neither read nor written, as it must
            be for code that can't run here.

    Raises:
        HasteError: TVM failed to generate code, which is a defect of this compiler.
    """
    path = None if cache_key is None else cache_directory() / f"{cache_key}.so"
    stored = None if path is None else _load(path, machine)
    if stored is not None:
        return stored
    try:
        mod = machine.plan(lowered.mod)
        check_interrupt()
        with machine.target, machine.pass_context(), machine.compiling():
            executable = relax.build(mod, machine.target, relax_pipeline=tvm.transform.Sequential([]))
    except Exception as error:
        raise HasteError(f"TVM could not generate code for {machine.target}: {last_line(error)}") from None
    check_interrupt()
    code = Code(executable, machine.target)
    if path is None:
        return code
    _store(code, path)
    # The library that was linked takes less memory than what LLVM keeps of code made in this process.
    return _load(path, machine) or code


def cache_directory() -> Path:
    """Where compiled code and tuning results are kept: ``$HASTE_CACHE``, or haste-compiler in the user's cache."""
    chosen = os.environ.get("HASTE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "haste-compiler"


def write_cached(path: Path, value: Any) -> None:
    """Write JSON to the cache; another process may read meanwhile."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(value, indent=1))
    except OSError:
        # A cache that can't be written costs time at the next start, nothing else.
        return


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


def _load(path: Path, machine: Machine) -> Code | None:
    """The stored code; None where there is none or the file is damaged, which the system's loader may not survive."""
    try:
        file = KeptFile(path)
        data = file.read()
        if hashlib.sha256(data[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
            return None
        with machine.compiling():
            return Code(tvm.runtime.load_module(str(path)), machine.target, file)
    except (OSError, RuntimeError):
        return None


def _store(code: Code, path: Path) -> None:
    """Write to a temporary file first: another process may read the cache meanwhile. Its checksum comes last."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(path.parent) as folder:
            made = folder / path.name
            code.write_library(made)
            with made.open("r+b") as file:
                file.write(hashlib.sha256(file.read()).digest())
            os.replace(made, path)
    except (OSError, HasteError):
        # A cache that can't be written costs time at the next start, nothing else.
        return
