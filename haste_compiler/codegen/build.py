"""From the TVM module to machine code, or the same from the cache on disk."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import tvm
from tvm import relax
from tvm.relax.backend.cpu_generic import pipeline as cpu_pipeline
from tvm.target import Target

from haste_compiler.codegen.cpu.schedule import schedule_rest
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.cuda.build import plan_for_card, precise_compiler
from haste_compiler.codegen.cuda.target import is_cuda
from haste_compiler.codegen.library import DIGEST_BYTES, Code
from haste_compiler.codegen.program import Lowered
from haste_compiler.errors import HasteError, last_line


def pass_context(compact: bool = False) -> Any:
    """The settings under which TVM may lower our kernels.

    It would let their scratch buffers share memory, integers and floats, across loops whose end depends on data; LLVM's
    type-based aliasing then takes their reads and writes out of order.

    Args:
        compact: look for buffers that are larger than what is used of them, as TVM's own schedules for a card leave
            some. Ours never are, and looking takes half the time of compiling HASTE kernels.
    """
    disabled = [] if compact else ["s_tir.CompactBufferAllocation"]
    return tvm.transform.PassContext(config={"tirx.disable_storage_rewrite": True}, disabled_pass=disabled)


def build(lowered: Lowered, target: Target, cache_key: str | None = None) -> Code:
    """Machine code for a lowered network.

    Args:
        lowered: the network.
        target: a complete target.
        cache_key: names the code in the cache on disk (``cache_directory``); None: neither read nor written, as it must
            be for code that can't run here.

    Raises:
        HasteError: TVM failed to generate code, which is a defect of this compiler.
    """
    path = None if cache_key is None else cache_directory() / f"{cache_key}.so"
    stored = None if path is None else _load(path, target)
    if stored is not None:
        return stored
    try:
        mod = plan(lowered, target)
        with target, pass_context(compact=is_cuda(target)), precise_compiler(target):
            executable = relax.build(mod, target, relax_pipeline=tvm.transform.Sequential([]))
    except Exception as error:
        raise HasteError(f"TVM could not generate code for {target}: {last_line(error)}") from None
    code = Code(executable, target)
    if path is None:
        return code
    _store(code, path)
    # The library that was linked takes less memory than what LLVM keeps of code made in this process.
    return _load(path, target) or code


def plan(lowered: Lowered, target: Target) -> tvm.IRModule:
    """Schedule what TVM generated, plan the memory of all tensors: what is left is to generate machine code."""
    if is_cuda(target):
        return plan_for_card(lowered.mod, target)
    with target, pass_context():
        mod = tvm.transform.Sequential(cpu_pipeline.legalize_passes(target))(lowered.mod)
        mod = schedule_rest(mod, vector_unit(target).lanes)
        late = cpu_pipeline.dataflow_lower_passes(target) + cpu_pipeline.finalize_passes(target)
        return tvm.transform.Sequential(late)(mod)


def cache_directory() -> Path:
    """Where compiled code and tuning results are kept: ``$HASTE_CACHE``, or haste-compiler in the user's cache."""
    chosen = os.environ.get("HASTE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "haste-compiler"


def write_cached(path: Path, value: Any) -> None:
    """Write JSON to the cache, to a temporary file first: another process may read meanwhile."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_suffix(f".{os.getpid()}")
        made.write_text(json.dumps(value, indent=1))
        os.replace(made, path)
    except OSError:
        # A cache that can't be written costs time at the next start, nothing else.
        return


def cache_key(graph: str, target: Target, threads: int, *extra: object) -> str:
    """A name for the code that a graph compiles to; it changes with the versions of TVM, PyTorch and this package."""
    digest = hashlib.sha256()
    for part in (graph, str(target), threads, tvm.__version__, torch.__version__, _source_digest(), *extra):
        digest.update(repr(part).encode())
        digest.update(b"\\0")
    return digest.hexdigest()[:40]


@lru_cache(maxsize=1)
def _source_digest() -> str:
    """Of all of this package's code, so that what a changed file would lower otherwise is never served from the cache."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _load(path: Path, target: Target) -> Code | None:
    """The stored code; None where there is none or the file is damaged, which the system's loader may not survive."""
    try:
        file = path.open("rb")
        data = file.read()
        if hashlib.sha256(data[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
            return None
        with precise_compiler(target):
            return Code(tvm.runtime.load_module(str(path)), target, file)
    except (OSError, RuntimeError):
        return None


def _store(code: Code, path: Path) -> None:
    """Write to a temporary file first: another process may read the cache meanwhile. Its checksum comes last."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            code.write_library(made)
            with made.open("r+b") as file:
                file.write(hashlib.sha256(file.read()).digest())
            os.replace(made, path)
    except (OSError, HasteError):
        # A cache that can't be written costs time at the next start, nothing else.
        return
