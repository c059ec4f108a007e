"""Runs generated CUDA code without a card: compiled for the CPU and called by TVM's own host code.

``install`` makes TVM take "cuda" memory from the CPU and load CUDA modules as what ``emulator.h`` makes of their
source. Everything around the kernels is what runs with a card: the packing of arguments, the extents of the launches,
the virtual machine, its memory planning, saved networks.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import re
import shutil
import struct
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import tvm
import tvm_ffi
from torch import Tensor

from haste_compiler.codegen.cuda import target
from haste_compiler.codegen.cuda.kernels.intrinsics import SOURCES

_HERE = Path(__file__).parent
_KERNEL = re.compile(r'extern "C" __global__ void __launch_bounds__\((\d+)\) (\w+)\(([^)]*)\) \{')
_SHARED = re.compile(r"__shared__ alignas\(64\) (\w+) (\w+)\[(\d+)\];")


def require() -> None:
    """Install the emulator, or skip the test where a card or no compiler is there."""
    if shutil.which("g++") is None:
        pytest.skip("emulating CUDA needs g++, which is not in the PATH")
    if not install():
        pytest.skip("this machine has a card: nothing is emulated")


@lru_cache(maxsize=1)
def install() -> bool:
    """Make "cuda" in this process the emulator; False where a card is there."""
    if tvm_ffi.get_global_func("device_api.cuda", allow_missing=True) is not None:
        return False
    cpu = tvm_ffi.get_global_func("device_api.cpu")
    tvm_ffi.register_global_func("device_api.cuda", lambda: cpu())
    # The emulator passes for an sm_80: the CPU's device has no compute capability.
    target.card_version = lambda: 80
    tvm_ffi.register_global_func("ffi.Module.load_from_bytes.cuda", lambda data: load(bytes(data)))
    return True


class _DLTensor(ctypes.Structure):
    """DLPack's ``DLManagedTensor``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("dtype", ctypes.c_uint8 * 4),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


def on_card(tensor: Tensor) -> Any:
    """A TVM tensor on the same memory, said to be the card's; the caller keeps ``tensor``."""
    shape = (ctypes.c_int64 * tensor.dim())(*tensor.shape)
    kind = {torch.float32: 2, torch.int32: 0}[tensor.dtype]
    cuda = 2
    made = _DLTensor(tensor.data_ptr(), (cuda, 0), tensor.dim(), (kind, 32, 1, 0), shape, None, 0, None, None)
    _KEPT.append((made, shape))
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return tvm.runtime.from_dlpack(new(ctypes.addressof(made), b"dltensor", None))


_KEPT: list[Any] = []
"""TVM may look at a tensor's description as long as it lives; they are small."""


def load(data: bytes) -> Any:
    """The emulated module of a stored CUDA module: (format, launch parameters of every kernel, code)."""
    reader = _Reader(data)
    kind = reader.text()
    assert kind == "cuda", f"the module holds {kind}, and only source can be emulated"
    axes = {}
    for _ in range(reader.number()):
        reader.text()
        name = reader.text()
        reader.skip(4 * reader.number())
        axes[name] = [reader.text() for _ in range(reader.number())]
        reader.skip(4 * reader.number())
    return tvm.runtime.load_module(str(compile_source(reader.text(), axes)))


class _Reader:
    """Reads what TVM's serialiser wrote: lengths are 64-bit, text is its length and its bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self) -> int:
        value: int
        (value,) = struct.unpack_from("<Q", self._data, self._at)
        self._at += 8
        return value

    def text(self) -> str:
        length = self.number()
        self._at += length
        return self._data[self._at - length : self._at].decode()

    def skip(self, length: int) -> None:
        self._at += length


_COMPILER = ["g++", "-std=c++20", "-O1", "-w", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off"]


@lru_cache(maxsize=1)
def _folder() -> Path:
    """Where libraries go, with the header compiled beforehand, which is most of what compiling a kernel takes."""
    folder = tempfile.TemporaryDirectory(prefix="haste-emulator-")
    atexit.register(folder.cleanup)
    header = Path(folder.name) / "emulator.h"
    shutil.copy(_HERE / "emulator.h", header)
    subprocess.run([*_COMPILER, "-x", "c++-header", str(header), "-o", f"{header}.gch"], check=True)
    return Path(folder.name)


def compile_source(source: str, axes: dict[str, list[str]]) -> Path:
    """Compile generated CUDA C for the CPU; ``axes``: what each kernel takes after its arguments."""
    text = translate(source, axes)
    key = hashlib.sha256(text.encode()).hexdigest()[:24]
    library = _folder() / f"{key}.so"
    if not library.exists():
        code = library.with_suffix(".cc")
        code.write_text(text)
        command = [*_COMPILER, "-shared", f"-I{library.parent}", str(code), "-o", str(library)]
        made = subprocess.run(command, capture_output=True, text=True)
        assert made.returncode == 0, f"the generated code is no valid C++:\n{made.stderr[:3000]}"
    return library


def translate(source: str, axes: dict[str, list[str]]) -> str:
    """Generated CUDA C as C++ with one function for each kernel that TVM's host code can call."""
    body = source[source.index("#define ushort unsigned short") :].partition("#endif")[2]
    for function in SOURCES.values():
        body = body.replace(function, "")
    wrappers: list[str] = []
    starts = list(_KERNEL.finditer(body))
    for match in starts:
        wrappers.append(_wrapper(match, axes[match[2]]))
    body = _with_known_shared(body, starts)
    return f'#include "emulator.h"\n{body}\n' + "\n".join(wrappers)


def _with_known_shared(body: str, starts: list[re.Match[str]]) -> str:
    """Lift every kernel's shared memory out of it, so that it can be filled with NaN before each block."""
    pieces, at = [], 0
    for number, match in enumerate(starts):
        end = starts[number + 1].start() if number + 1 < len(starts) else len(body)
        kernel = body[match.start() : end]
        found = list(_SHARED.finditer(kernel))
        names = [f"{match[2]}_shared_{i}" for i in range(len(found))]
        declared = "".join(
            f"alignas(64) static {item[1]} {name}[{item[3]}];\n" for item, name in zip(found, names, strict=True)
        )
        fill = "".join(f"memset({name}, 0xff, sizeof {name});" for name in names)
        declared += f"static void {match[2]}_poison() {{ {fill} }}\n"
        replaced = kernel
        for item, name in zip(found, names, strict=True):
            replaced = replaced.replace(item[0], f"{item[1]}* {item[2]} = {name};", 1)
        pieces += [body[at : match.start()], declared, replaced]
        at = end
    return "".join([*pieces, body[at:]])


def _wrapper(match: re.Match[str], axes: list[str]) -> str:
    threads, name, parameters = int(match[1]), match[2], match[3]
    arguments = []
    for index, parameter in enumerate(filter(None, (part.strip() for part in parameters.split(",")))):
        kind = parameter.replace("__restrict__", "").rsplit(" ", 1)[0].strip()
        field = "pointer" if "*" in kind else "real" if kind in ("float", "double") else "integer"
        arguments.append(f"({kind})args[{index}].{field}")
    place = {axis: f"(int)args[{len(arguments) + i}].integer" for i, axis in enumerate(axes)}
    assert not set(place) - {f"{kind}.{axis}" for kind in ("blockIdx", "threadIdx") for axis in "xyz"}, place
    assert not {"threadIdx.y", "threadIdx.z"} & set(place), "blocks of one dimension only are emulated"
    grid = ", ".join(place.get(f"blockIdx.{axis}", "1") for axis in "xyz")
    return (
        f'extern "C" int __tvm_ffi_{name}(void*, const Argument* args, int32_t count, Argument* result) {{\n'
        f"  int grid[3] = {{{grid}}};\n"
        f"  int threads = {place.get('threadIdx.x', '1')};\n"
        f'  if (threads > {threads} || count != {len(arguments) + len(axes)}) emulator::fail("wrong launch");\n'
        f"  emulator::launch(grid, threads, {name}_poison, [=] {{ {name}({', '.join(arguments)}); }});\n"
        "  result->kind = 0; result->padding = 0; result->integer = 0;\n"
        "  return 0;\n}\n"
    )
