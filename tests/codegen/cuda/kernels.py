"""Builds CUDA kernels, and runs them emulated between guards."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import tvm
from torch import Tensor
from tvm import tirx

from haste_compiler.codegen.build import pass_context
from haste_compiler.codegen.cuda.conv2d import add_parts_kernel, conv2d_kernel, pack_filters
from haste_compiler.codegen.cuda.tiling import GemmTiling, Precision
from haste_compiler.codegen.target import parse_target
from tests.codegen.cuda import emulator
from tests.codegen.kernels import Arguments, ConvCase, nhwc


def compile_kernels(functions: Mapping[str, tirx.PrimFunc], target: str = "cuda -arch=sm_80") -> Any:
    """What TVM makes of some kernels: host code, and CUDA C."""
    with pass_context():
        return tvm.compile(tvm.IRModule(dict(functions)), target=parse_target(target)).mod


def source_of(module: Any) -> str:
    """The CUDA C inside a module."""
    if module.kind == "cuda":
        return str(module.inspect_source("cuda"))
    return "".join(source_of(imported) for imported in module.imports)


def build(functions: Mapping[str, tirx.PrimFunc]) -> Any:
    """The kernels, emulated; ``[name]`` is the function."""
    emulator.require()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernels.so"
        compile_kernels(functions).export_library(str(library))
        return tvm.runtime.load_module(str(library))


class CudaArguments(Arguments):
    """Guarded tensors that the emulator takes for the card's."""

    def call(self, function: Any) -> None:
        """Call the kernel, and check the guards."""
        function(*map(emulator.on_card, self.tensors))
        self.check_guards()


def run_conv2d(case: ConvCase, tiling: GemmTiling, precision: Precision = "fp32") -> Tensor:
    """The dense convolution of a case, (N, K, OH, OW)."""
    geometry, batch = case.geometry, case.x.shape[0]
    residual = case.residual is not None
    functions = {
        "conv": conv2d_kernel("conv", geometry, batch, tiling, precision, residual=residual, activation=case.activation)
    }
    shape = (batch, *geometry.output_size, geometry.out_channels)
    filters = pack_filters(case.weight.numpy(), geometry, tiling.tile)
    end = [torch.zeros(shape[3]) if case.bias is None else case.bias]
    if case.residual is not None:
        end.append(nhwc(case.residual))
    arguments = CudaArguments()
    arguments.read(nhwc(case.x), filters, *(end if tiling.splits == 1 else []))
    if tiling.splits == 1:
        y = arguments.write(shape)
        arguments.call(build(functions)["conv"])
        return y.permute(0, 3, 1, 2)
    functions["add"] = add_parts_kernel("add", tiling.splits, shape, residual=residual, activation=case.activation)
    built = build(functions)
    sums = arguments.write((tiling.splits, shape[0] * shape[1] * shape[2], shape[3]))
    arguments.call(built["conv"])
    arguments = CudaArguments()
    arguments.read(sums, *end)
    y = arguments.write(shape)
    arguments.call(built["add"])
    return y.permute(0, 3, 1, 2)
