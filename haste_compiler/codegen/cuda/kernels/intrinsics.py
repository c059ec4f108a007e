"""What CUDA C has no expression for: asynchronous copies and the tensor cores, as device functions with inline PTX.

The generated source holds each function that a kernel calls, once, as it is written here.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.tirx.script import builder as T

from haste_compiler.codegen.element import FLOAT32

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

_TF32 = """
__device__ __forceinline__ unsigned haste_tf32(float value) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}
"""

_ROUND_TF32 = """
__device__ __forceinline__ float haste_round_tf32(float value) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return __uint_as_float(bits);
}
"""

_BITS = """
__device__ __forceinline__ unsigned haste_bits(float value) { return __float_as_uint(value); }
"""

_BF16X2 = """
__device__ __forceinline__ unsigned haste_bf16x2(float low, float high) {
  unsigned bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
"""

_MMA = """
__device__ __forceinline__ void haste_mma_{precision}(float* d, const unsigned* a, const unsigned* b) {{
  asm volatile("mma.sync.aligned.{shape}.row.col.f32.{precision}.{precision}.f32 "
               "{{%0,%1,%2,%3}}, {{%4,%5,%6,%7}}, {{%8,%9}}, {{%0,%1,%2,%3}};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}}
"""

SOURCES = {
    "haste_copy_16": _COPY.format(bytes=16, cache="cg"),
    "haste_copy_4": _COPY.format(bytes=4, cache="ca"),
    "haste_copies_commit": _COMMIT,
    "haste_copies_wait": _WAIT,
    "haste_tf32": _TF32,
    "haste_round_tf32": _ROUND_TF32,
    "haste_bits": _BITS,
    "haste_bf16x2": _BF16X2,
    "haste_mma_tf32": _MMA.format(precision="tf32", shape="m16n8k8"),
    "haste_mma_bf16": _MMA.format(precision="bf16", shape="m16n8k16"),
}
"""The source of each function, as it stands in the generated code."""


def copy_async(to: Any, to_index: Expr, source: Any, index: Expr, valid: Expr, floats: int) -> None:
    """Begin to copy 1 or 4 floats from global to shared memory; zeros where ``valid`` is false, and nothing is read.

    Barriers are the caller's: the write is declared to TVM as a read of the whole buffer, or it would wait after every
    copy for all threads, which is what asynchronous copies are to avoid.
    """
    whole = to.access_ptr("r", offset=0, extent=to.shape[0])
    _call(
        f"haste_copy_{FLOAT32.bytes * floats}",
        whole,
        to_index,
        tirx.address_of(source[index]),
        tirx.Cast("int32", valid),
    )


def commit_copies() -> None:
    """Make a group of the copies begun since the last one."""
    _call("haste_copies_commit")


def wait_for_copies(pending: int) -> None:
    """Wait until no more than ``pending`` of this thread's latest groups are under way."""
    _call("haste_copies_wait", T.int32(pending))


def tf32_bits(value: Expr) -> Expr:
    """A float32 rounded to TF32, ties away from zero, as a word that ``mma`` takes."""
    return _value("haste_tf32", "uint32", value)


def round_to_tf32(value: Expr) -> Expr:
    """The same as a float32."""
    return _value("haste_round_tf32", FLOAT32.dtype, value)


def bits(value: Expr) -> Expr:
    """A float32 that is rounded already, as a word that ``mma`` takes."""
    return _value("haste_bits", "uint32", value)


def bf16_pair(low: Expr, high: Expr) -> Expr:
    """Two float32 rounded to bfloat16, ties to even, as a word that ``mma`` takes."""
    return _value("haste_bf16x2", "uint32", low, high)


MMA_WORDS = (4, 2)
"""Words of the first and of the second matrix that a lane hands to ``mma``."""


def mma(precision: str, sums: Any, sums_index: Expr, a: Any, a_index: Expr, b: Any, b_index: Expr) -> None:
    """Multiply-accumulate of a warp: 16 × 8 outputs over a depth of 8 ("tf32") or 16 ("bf16").

    Who holds what is in the PTX manual, under "Matrix Fragments for mma.m16n8k8" and "mma.m16n8k16". A lane holds 4
    sums and ``MMA_WORDS`` of the operands, each a TF32 number or two bfloat16 ones that are neighbours along the depth.
    """
    _call(
        f"haste_mma_{precision}",
        _pointer(sums, sums_index, 4, "rw"),
        _pointer(a, a_index, MMA_WORDS[0], "r"),
        _pointer(b, b_index, MMA_WORDS[1], "r"),
    )


def _pointer(buffer: Any, index: Expr, floats: int, access: str) -> Expr:
    """The address, with the extent that is accessed: TVM cuts buffers down to what it sees accessed."""
    return buffer.access_ptr(access, offset=index, extent=floats)


def _call(name: str, *arguments: Expr) -> None:
    T.evaluate(cuda_func_call(name, *arguments, source_code=SOURCES[name]))


def _value(name: str, dtype: str, *arguments: Expr) -> Expr:
    return cuda_func_call(name, *arguments, source_code=SOURCES[name], return_type=dtype)
