"""From a lowered network to code for a card: TVM's own operators scheduled, CUDA C compiled."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tvm
import tvm_ffi
from tvm.relax.backend.cuda import pipeline
from tvm.target import Target

from haste_compiler.codegen.cuda.target import arch_of
from haste_compiler.errors import HasteError, last_line
from haste_compiler.files import scratch_folder

NVCC_OPTIONS = ("-O3", "--expt-relaxed-constexpr")
"""How the generated code is compiled."""

_CALLBACK = "tvm_callback_cuda_compile"


def plan_for_card(mod: tvm.IRModule, target: Target) -> tvm.IRModule:
    """Schedule what TVM generated, by its rules for GPUs, and plan the memory of all tensors."""
    passes = pipeline.legalize_passes(target) + pipeline.dataflow_lower_passes(target)
    with target, tvm.transform.PassContext(config={"tirx.disable_storage_rewrite": True}):
        return tvm.transform.Sequential(passes + pipeline.finalize_passes(target))(mod)


def bound_registers(source: str) -> str:
    """Generated code in which two blocks of 256 threads are to fit a multiprocessor, which TVM can't say."""
    return source.replace("__launch_bounds__(256)", "__launch_bounds__(256, 2)")


def has_compiler() -> bool:
    """Whether nvcc is in the PATH."""
    return shutil.which("nvcc") is not None


def compile_source(source: str, arch: str) -> bytes:
    """Compile CUDA C with nvcc: machine code for ``arch``, and PTX for later cards.

    Raises:
        HasteError: nvcc is not in the PATH, or refuses the source.
    """
    if not has_compiler():
        raise HasteError("compiling CUDA C needs nvcc, which is not in the PATH")
    with scratch_folder() as folder:
        code, made = folder / "kernels.cu", folder / "kernels.fatbin"
        code.write_text(bound_registers(source))
        command = ["nvcc", "-fatbin", f"-arch={arch}", *NVCC_OPTIONS, str(code), "-o", str(made)]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            raise HasteError(f"nvcc refuses the generated code: {last_line(RuntimeError(ran.stderr))}")
        return made.read_bytes()


def source_of(module: Any) -> str:
    """The CUDA C inside a module; empty where it holds compiled code, or none."""
    if module.kind == "cuda":
        return str(module.inspect_source("cuda"))
    return "".join(source_of(imported) for imported in module.imports)


@contextmanager
def precise_compiler(target: Target, compiled: bytes | None = None) -> Iterator[None]:
    """While it is open, TVM compiles CUDA C as ``compile_source`` does, where nvcc is installed.

    TVM itself asks for fast arithmetic: denormal numbers become zero, divisions and exponentials are approximate.

    Args:
        target: of the code.
        compiled: what ``compile_source`` made of the source that is to be compiled, elsewhere.
    """
    if compiled is None and not has_compiler():
        yield
        return
    before = tvm_ffi.get_global_func(_CALLBACK, allow_missing=True)

    def compile_or_take(source: Any) -> bytes:
        return compile_source(str(source), arch_of(target)) if compiled is None else compiled

    tvm_ffi.register_global_func(_CALLBACK, compile_or_take, override=True)
    try:
        yield
    finally:
        if before is not None:
            tvm_ffi.register_global_func(_CALLBACK, before, override=True)
