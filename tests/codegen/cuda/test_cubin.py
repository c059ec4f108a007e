"""Every CUDA kernel compiled for the cards it is meant for: what of a multiprocessor a block takes."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest
import tvm_ffi
from tvm import tirx

from haste_compiler.codegen.cuda.build import (
    NVCC_OPTIONS,
    bound_registers,
    compile_source,
    precise_compiler,
    source_of,
)
from haste_compiler.codegen.cuda.emit import SHARED_BYTES
from haste_compiler.codegen.cuda.kernels.conv2d import add_parts_kernel, conv2d_kernel
from haste_compiler.codegen.cuda.kernels.pointwise import (
    activation_kernel,
    depthwise_kernel,
    pooling_kernel,
    transpose_kernel,
)
from haste_compiler.codegen.cuda.kernels.winograd import CardWinograd, winograd_input_kernel, winograd_output_kernel
from haste_compiler.codegen.cuda.precision import Precision
from haste_compiler.codegen.cuda.tiling import DEPTH, TILES, GemmTiling
from haste_compiler.codegen.pooling import Pooling
from haste_compiler.codegen.target import parse_target
from haste_compiler.errors import HasteError
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.winograd import SIZES
from haste_compiler.methods.haste.cuda.convolve import haste_convolve_kernel, merge_filters_kernel
from haste_compiler.methods.haste.cuda.group import group_steps
from haste_compiler.methods.haste.cuda.layout import MOST_CHANNELS, group_layout
from tests.codegen.cuda.kernels import compile_kernels
from tests.codegen.strategies import ACTIVATIONS

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not in the PATH")

PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")
WIDE = ConvGeometry(256, 256, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (14, 14), (64, 64))
STEM = ConvGeometry(3, 64, (7, 7), (2, 2), (3, 3, 3, 3), (1, 1), 1, (56, 56), (64, 64))
DEEP = ConvGeometry(MOST_CHANNELS, 64, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (7, 7), (64, 64))
SEPARATE = ConvGeometry(64, 64, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 64, (14, 14), (64, 64))


@dataclass(frozen=True)
class Usage:
    """What ptxas says of a kernel."""

    registers: int
    shared: int
    spilled: int
    stack: int


def kernels() -> dict[str, tirx.PrimFunc]:
    """One of every kind, and of the products every tile in every precision."""
    functions: dict[str, tirx.PrimFunc] = {}
    for precision in PRECISIONS:
        for number, tile in enumerate(TILES):
            name = f"conv_{precision}_{number}"
            functions[name] = conv2d_kernel(
                name, WIDE, 1, GemmTiling(tile), precision, residual=True, activation="relu"
            )
        name = f"haste_convolve_{precision}"
        functions[name] = haste_convolve_kernel(name, WIDE, 1, TILES[0], precision, residual=True, activation="relu")
    functions["stem"] = conv2d_kernel("stem", STEM, 1, GemmTiling(TILES[1]), "fp32")
    functions["parts"] = conv2d_kernel("parts", WIDE, 1, GemmTiling(TILES[3], 8), "fp32")
    functions["add"] = add_parts_kernel("add", 8, (1, 14, 14, 256), residual=True, activation="gelu")
    for geometry, merge, skip in ((WIDE, "projection", "flat"), (DEEP, "mean", "none")):
        for step in group_steps(group_layout(geometry, 1, 30, 108), merge=merge, skip=skip):
            name = f"group_{step.kind}_{merge}"
            functions[name] = step.kernel(name)
    functions["filters"] = merge_filters_kernel("filters", WIDE, 1, TILES[0], "tf32")
    functions["depthwise"] = depthwise_kernel("depthwise", SEPARATE, 1, residual=True, activation="silu")
    for size in SIZES:
        winograd = CardWinograd(WIDE, 1, size)
        name = f"winograd_input_{size}"
        functions[name] = winograd_input_kernel(name, winograd)
        name = f"winograd_output_{size}"
        functions[name] = winograd_output_kernel(name, winograd, residual=True, activation="silu")
    functions["max"] = pooling_kernel("max", Pooling("max", (14, 14), (7, 7), (3, 3), (2, 2), (1, 1)), 1, 64)
    functions["mean"] = pooling_kernel("mean", Pooling("adaptive_avg", (14, 14), (1, 1)), 1, 64)
    for number, activation in enumerate(ACTIVATIONS):
        functions[f"act_{number}"] = activation_kernel(f"act_{number}", (100,), activation)
    functions["transpose"] = transpose_kernel("transpose", 1, 64, 196, ((1, 64, 14, 14), (1, 14, 14, 64)))
    return functions


@lru_cache(maxsize=1)
def source() -> str:
    return source_of(compile_kernels(kernels()))


def usage(arch: str, folder: Path) -> dict[str, Usage]:
    """Compile all kernels to a cubin."""
    code = folder / "kernels.cu"
    code.write_text(bound_registers(source()))
    made_code = str(folder / "kernels.cubin")
    command = ["nvcc", "-cubin", f"-arch={arch}", *NVCC_OPTIONS, "-Xptxas", "-v", str(code), "-o", made_code]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    found = {}
    for part in made.stderr.split("Compiling entry function")[1:]:
        name = re.search(r"'(\w+)_kernel'", part)
        registers, spilled = re.search(r"Used (\d+) registers", part), re.search(r"(\d+) bytes spill stores", part)
        shared, stack = re.search(r"(\d+) bytes smem", part), re.search(r"(\d+) bytes stack frame", part)
        assert name and registers and spilled and stack
        found[name[1]] = Usage(int(registers[1]), int(shared[1]) if shared else 0, int(spilled[1]), int(stack[1]))
    return found


@needs_nvcc
@pytest.mark.parametrize("arch", ["sm_80", pytest.param("sm_90", marks=pytest.mark.slow)])
def test_registers_and_shared_memory_are_within_their_budgets(arch: str, tmp_path: Path) -> None:
    found = usage(arch, tmp_path)
    assert set(found) == set(kernels())
    for name, used in found.items():
        # The compiler spills a little where it hopes for one block more.
        assert used.spilled <= 16, f"{name}: {used}"
        # Nothing else is on the stack: sums and fragments are in registers.
        assert used.stack <= used.spilled + 16, f"{name}: {used}"
        assert used.shared <= SHARED_BYTES, f"{name}: {used}"
    registers = 65536
    for precision in PRECISIONS:
        # Two blocks of the largest tile on a multiprocessor, so that one computes while the other waits.
        largest = found[f"conv_{precision}_0"]
        assert 2 * TILES[0].threads * largest.registers <= registers, f"{precision}: {largest}"
        assert 2 * largest.shared <= 100 << 10
        haste = found[f"haste_convolve_{precision}"]
        assert TILES[0].threads * haste.registers <= registers, f"{precision}: {haste}"
    for name in (name for name in found if name.startswith("group")):
        # One block of those that decide, two of the others.
        assert 512 * found[name].registers <= registers, f"{name}: {found[name]}"


def test_the_tensor_cores_and_asynchronous_copies_are_in_the_code() -> None:
    text = source()
    for instruction in (
        "cp.async.cg.shared.global [%0], [%1], 16",
        "cp.async.ca.shared.global [%0], [%1], 4",
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    ):
        assert instruction in text


@needs_nvcc
def test_operands_are_rounded_once_and_filters_for_tf32_not_at_all(tmp_path: Path) -> None:
    tile = GemmTiling(TILES[0])
    code = source_of(
        compile_kernels({name: conv2d_kernel(name, WIDE, 1, tile, name) for name in ("tf32", "bf16")})  # type: ignore[arg-type]
    )
    (tmp_path / "kernels.cu").write_text(code)
    command = ["nvcc", "-ptx", "-arch=sm_90", *NVCC_OPTIONS, "-o", "kernels.ptx", "kernels.cu"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    kernels_of = re.split(r"\.visible \.entry ", (tmp_path / "kernels.ptx").read_text())[1:]
    found = {kernel.partition("_")[0]: kernel for kernel in kernels_of}
    rows, columns = tile.tile.warp_rows // 16, tile.tile.warp_columns // 8
    for precision, depth, rounding, words in (
        ("tf32", 8, "cvt.rna.tf32.f32", rows * 4),
        ("bf16", 16, "cvt.rn.bf16x2.f32", rows * 4 + columns * 2),
    ):
        steps = DEPTH // depth
        assert found[precision].count("mma.sync.aligned") == steps * rows * columns
        assert found[precision].count(rounding) == steps * words


@needs_nvcc
def test_code_for_the_driver_is_a_fat_binary() -> None:
    one = source_of(compile_kernels({"act": activation_kernel("act", (100,), "relu")}))
    assert compile_source(one, "sm_90")[:4] == b"\x50\xed\x55\xba"
    callback, target = "tvm_callback_cuda_compile", parse_target("cuda -arch=sm_90")
    before = tvm_ffi.get_global_func(callback)
    with precise_compiler(target):
        assert bytes(tvm_ffi.get_global_func(callback)(one))[:4] == b"\x50\xed\x55\xba"
    with precise_compiler(target, b"compiled elsewhere"):
        assert bytes(tvm_ffi.get_global_func(callback)(one)) == b"compiled elsewhere"
    assert tvm_ffi.get_global_func(callback).same_as(before)
    with pytest.raises(HasteError, match="nvcc refuses"):
        compile_source("this is no CUDA C", "sm_90")
