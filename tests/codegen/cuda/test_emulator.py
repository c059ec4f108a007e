"""The emulator sees what it is there to see: races, missing waits, barriers that not every thread reaches."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cuda import emit
from haste_compiler.codegen.cuda.kernels import intrinsics
from haste_compiler.codegen.emit import Expr
from tests.codegen.cuda.emulator import compile_source
from tests.codegen.cuda.kernels import build, reversed_threads

_PREAMBLE = "#define ushort unsigned short\n#endif\n"
_AXES = {"k": ["blockIdx.x", "threadIdx.x"]}

_RUN = """
import ctypes, sys
class Argument(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("padding", ctypes.c_uint32), ("integer", ctypes.c_int64)]
y = (ctypes.c_float * 64)()
args = (Argument * 3)(Argument(0, 0, ctypes.addressof(y)), Argument(0, 0, 1), Argument(0, 0, 64))
ctypes.CDLL(sys.argv[1])["__tvm_ffi_k"](None, args, 3, ctypes.byref(Argument()))
print(*y)
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    """Run a kernel of 64 threads that writes y in a process of its own, which it may end."""
    kernel = f'extern "C" __global__ void __launch_bounds__(64) k(float* __restrict__ y) {{\n{body}\n}}'
    library: Path = compile_source(_PREAMBLE + kernel, _AXES)
    return subprocess.run([sys.executable, "-c", _RUN, str(library)], capture_output=True, text=True)


def test_barriers_that_some_threads_never_reach_end_the_process() -> None:
    ran = run("if (threadIdx.x < 32) __syncthreads(); else y[0] = 1;\n__syncthreads();")
    assert ran.returncode != 0 and "different barriers" in ran.stderr
    ran = run("if (threadIdx.x == 3) __syncwarp();")
    # Threads that have ended wait for nothing.
    assert ran.returncode == 0


def test_shared_memory_that_nobody_wrote_is_not_a_number() -> None:
    ran = run("__shared__ alignas(64) float s[64];\n__syncthreads();\ny[threadIdx.x] = s[threadIdx.x];")
    assert set(ran.stdout.split()) == {"nan"}, ran.stderr


def test_warps_exchange_values() -> None:
    ran = run("y[threadIdx.x] = __shfl_down_sync(~0u, (float)threadIdx.x, 4, 32);")
    wanted = [t + 4 if t % 32 < 28 else t for t in range(64)]
    assert [float(number) for number in ran.stdout.split()] == wanted


def shift(wait: bool, meet: bool) -> tuple[np.ndarray, np.ndarray]:
    """y[i] = x[i + 4] through shared memory, with the threads in either order; a wait or a barrier may be left out."""

    def body(x: Expr, y: Expr) -> None:
        with emit.launch((1,), 64) as (_, thread):
            numbers = emit.shared(256)
            intrinsics.copy_async(numbers, thread * 4, x, thread * 4, T.bool(True), 4)
            intrinsics.commit_copies()
            if wait:
                intrinsics.wait_for_copies(0)
            if meet:
                emit.barrier()
            T.buffer_store(y, numbers[(thread * 4 + 4) % 256], [thread])
            if not wait:
                intrinsics.wait_for_copies(0)

    function = build({"k": emit.kernel("k", [("x", (256,), "float32"), ("y", (64,), "float32")], body)})["k"]
    x = tvm.runtime.tensor(np.arange(256, dtype=np.float32), tvm.cuda())
    results = []
    for order in (False, True):
        y = tvm.runtime.empty((64,), "float32", tvm.cuda())
        if order:
            with reversed_threads():
                function(x, y)
        else:
            function(x, y)
        results.append(y.numpy())
    return results[0], results[1]


def test_copies_waited_for_arrive() -> None:
    first, second = shift(wait=True, meet=True)
    assert (first == (np.arange(64) * 4 + 4) % 256).all() and (first == second).all()


def test_a_missing_wait_is_seen() -> None:
    first, _ = shift(wait=False, meet=True)
    # The last but one reads what the last has waited for already.
    assert np.isnan(first[:62]).all()


def test_a_missing_barrier_is_seen() -> None:
    first, second = shift(wait=True, meet=False)
    assert not np.array_equal(first, second, equal_nan=True)


def test_a_copy_that_is_not_aligned_ends_the_process() -> None:
    # The emulator's own functions, called as the generated code calls them.
    ran = run("__shared__ alignas(64) float s[64];\nhaste_copy_16(s, 1, y, 1);")
    assert ran.returncode != 0 and "isn't aligned" in ran.stderr


def test_a_wrong_number_of_threads_is_refused() -> None:
    with pytest.raises(AssertionError, match="one dimension only"):
        kernel = 'extern "C" __global__ void __launch_bounds__(64) k(float* __restrict__ y) {\n}'
        compile_source(_PREAMBLE + kernel, {"k": ["blockIdx.x", "threadIdx.y"]})
