"""What CUDA C has no expression for: asynchronous copies and the tensor cores, as device functions with inline PTX.

The generated source holds each function that a kernel calls, once, as it is written here.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.tirx.script import builder as T

Expr = Any

_COPY = """
__device__ __forceinline__ void haste_copy_{bytes}(const float* to, int index, const float* from, int valid) {{
  unsigned target = (unsigned)__cvta_generic_to_shared(to + index);
  asm volatile("cp.async.{cache}.shared.global [%0], [%1], {bytes}, %2;"
               :: "r"(target), "l"(from), "r"(valid ? {bytes} : 0) : "memory");
}}
"""

_COMMIT = """
__device__ __forceinline__ void haste_copies_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
"""

_WAIT = """
template <int pending> __device__ __forceinline__ void haste_copies_wait_template() {
  asm volatile("cp.async.wait_group %0;" :: "n"(pending) : "memory");
}
#define haste_copies_wait(pending) haste_copies_wait_template<pending>()
"""

_MMA_TF32 = """
__device__ __forceinline__ unsigned haste_tf32(float value) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}
__device__ __forceinline__ void haste_mma_tf32(float* d, const float* a, const float* b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(haste_tf32(a[0])), "r"(haste_tf32(a[1])), "r"(haste_tf32(a[2])), "r"(haste_tf32(a[3])),
                 "r"(haste_tf32(b[0])), "r"(haste_tf32(b[1])));
}
"""

_MMA_BF16 = """
__device__ __forceinline__ unsigned haste_bf16x2(float low, float high) {
  unsigned bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
__device__ __forceinline__ void haste_mma_bf16(float* d, const float* a, const float* b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(haste_bf16x2(a[0], a[1])), "r"(haste_bf16x2(a[2], a[3])),
                 "r"(haste_bf16x2(a[4], a[5])), "r"(haste_bf16x2(a[6], a[7])),
                 "r"(haste_bf16x2(b[0], b[1])), "r"(haste_bf16x2(b[2], b[3])));
}
"""

SOURCES = {
    "haste_copy_16": _COPY.format(bytes=16, cache="cg"),
    "haste_copy_4": _COPY.format(bytes=4, cache="ca"),
    "haste_copies_commit": _COMMIT,
    "haste_copies_wait": _WAIT,
    "haste_mma_tf32": _MMA_TF32,
    "haste_mma_bf16": _MMA_BF16,
}
"""The source of each function, as it stands in the generated code."""


def copy_async(to: Any, to_index: Expr, source: Any, index: Expr, valid: Expr, floats: int) -> None:
    """Begin to copy 1 or 4 floats from global to shared memory; zeros where ``valid`` is false, and nothing is read.

    Barriers are the caller's: the write is declared to TVM as a read of the whole buffer, or it would wait after every
    copy for all threads, which is what asynchronous copies are to avoid.
    """
    whole = to.access_ptr("r", offset=0, extent=to.shape[0])
    _call(f"haste_copy_{4 * floats}", whole, to_index, tirx.address_of(source[index]), tirx.Cast("int32", valid))


def commit_copies() -> None:
    """Make a group of the copies begun since the last one."""
    _call("haste_copies_commit")


def wait_for_copies(pending: int) -> None:
    """Wait until no more than ``pending`` of this thread's latest groups are under way."""
    _call("haste_copies_wait", T.int32(pending))


def mma(precision: str, sums: Any, sums_index: int, a: Any, a_index: int, b: Any, b_index: int) -> None:
    """Multiply-accumulate of a warp: 16 × 8 outputs over a depth of 8 ("tf32") or 16 ("bf16").

    The operands are float32 in registers, rounded on the way in; who holds what is in the PTX manual, under
    "Matrix Fragments for mma.m16n8k8" and "mma.m16n8k16". A lane holds 4 sums, ``4`` (tf32) or ``8`` (bf16) numbers of
    the first matrix and ``2`` or ``4`` of the second.
    """
    held = {"tf32": (4, 2), "bf16": (8, 4)}[precision]
    _call(
        f"haste_mma_{precision}",
        _pointer(sums, sums_index, 4, "rw"),
        _pointer(a, a_index, held[0], "r"),
        _pointer(b, b_index, held[1], "r"),
    )


def _pointer(buffer: Any, index: Expr, floats: int, access: str) -> Expr:
    """The address, with the extent that is accessed: TVM cuts buffers down to what it sees accessed."""
    return buffer.access_ptr(access, offset=index, extent=floats)


def _call(name: str, *arguments: Expr) -> None:
    T.evaluate(cuda_func_call(name, *arguments, source_code=SOURCES[name]))
