"""Builds CUDA kernels, and runs them emulated between guards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import tvm
from torch import Tensor
from tvm import tirx

from haste_compiler.codegen.cuda.kernels.conv2d import add_parts_kernel, conv2d_kernel, pack_filters
from haste_compiler.codegen.cuda.precision import Precision
from haste_compiler.codegen.cuda.tiling import GemmTile, GemmTiling
from haste_compiler.codegen.target import machine_of, parse_target
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.counts import COUNTS
from haste_compiler.methods.haste.cuda.convolve import (
    haste_convolve_kernel,
    merge_filters_kernel,
    merged_filters_shape,
    pack_haste_filters,
)
from haste_compiler.methods.haste.cuda.group import group_steps
from haste_compiler.methods.haste.cuda.layout import group_layout
from haste_compiler.methods.haste.cuda.sums import pack_planes
from haste_compiler.methods.haste.reference.grouping import filter_norms
from haste_compiler.methods.haste.settings import Settings
from tests.codegen.cuda import emulator
from tests.codegen.kernels import Arguments, ConvCase, HasteOutput, nchw, nhwc

PROCESSORS = 3
"""Multiprocessors that the tests' kernels are cut for: few, as blocks are emulated one after the other."""


def compile_kernels(functions: Mapping[str, tirx.PrimFunc], target: str = "cuda -arch=sm_80") -> Any:
    """What TVM makes of some kernels: host code, and CUDA C."""
    machine = machine_of(parse_target(target))
    with machine.pass_context():
        return tvm.compile(tvm.IRModule(dict(functions)), target=machine.generated).mod


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


@contextmanager
def reversed_threads() -> Iterator[None]:
    """While it is open, the emulator runs the threads of a block from the last to the first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HASTE_EMULATOR_ORDER", "reversed")
        yield


def call(arguments: CudaArguments, function: Any, *written: Tensor) -> None:
    """Call a kernel with its threads in one order and in the other: without a race the outputs are equal."""
    arguments.call(function)
    first = [tensor.clone() for tensor in written]
    with reversed_threads():
        arguments.call(function)
    for before, after in zip(first, written, strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=0, equal_nan=True)


@dataclass(frozen=True)
class DenseRun:
    """One way to compute a dense convolution."""

    case: ConvCase
    tiling: GemmTiling
    precision: Precision = "fp32"


def run_conv2d(runs: Sequence[DenseRun]) -> list[Tensor]:
    """The dense convolution of each, (N, K, OH, OW); built together, which takes less time."""
    functions = {}
    for number, run in enumerate(runs):
        case, splits = run.case, run.tiling.splits
        rest: dict[str, Any] = {"residual": case.residual is not None, "activation": case.activation}
        functions[f"conv_{number}"] = conv2d_kernel(
            f"conv_{number}", case.geometry, case.batch, run.tiling, run.precision, **rest
        )
        if splits > 1:
            functions[f"add_{number}"] = add_parts_kernel(f"add_{number}", splits, case.output_shape(), **rest)
    built = build(functions)
    return [_run_conv2d(run, built, number) for number, run in enumerate(runs)]


def _run_conv2d(run: DenseRun, built: Any, number: int) -> Tensor:
    case, splits = run.case, run.tiling.splits
    shape = case.output_shape()
    end = [torch.zeros(shape[3]) if case.bias is None else case.bias]
    if case.residual is not None:
        end.append(nhwc(case.residual))
    arguments = CudaArguments()
    arguments.read(nhwc(case.x), pack_filters(case.weight.numpy(), case.geometry, run.tiling.tile, run.precision))
    if splits == 1:
        arguments.read(*end)
        y = arguments.write(shape)
        call(arguments, built[f"conv_{number}"], y)
        return nchw(y)
    sums = arguments.write((splits, shape[0] * shape[1] * shape[2], shape[3]))
    call(arguments, built[f"conv_{number}"], sums)
    arguments = CudaArguments()
    arguments.read(sums, *end)
    y = arguments.write(shape)
    call(arguments, built[f"add_{number}"], y)
    return nchw(y)


@lru_cache(maxsize=8)
def _haste_code(
    geometry: ConvGeometry,
    batch: int,
    merge: str,
    skip: str,
    planes: int,
    residual: bool,
    activation: str,
    tile: GemmTile,
    precision: Precision,
) -> Any:
    """All kernels, emulated: many tests want the same, with other settings and images."""
    layout = group_layout(geometry, batch, planes, PROCESSORS)
    grouping = {step.kind: step.kernel(step.kind) for step in group_steps(layout, merge=merge, skip=skip)}
    convolve = haste_convolve_kernel(
        "convolve", geometry, batch, tile, precision, residual=residual, activation=activation
    )
    filters = merge_filters_kernel("filters", geometry, batch, tile, precision)
    return build({**grouping, "filters": filters, "convolve": convolve})


class CudaHasteKernels:
    """The kernels of a HASTE convolution, built once; ``run`` takes other settings and images each time."""

    def __init__(
        self, case: ConvCase, planes: Tensor, merge: str, skip: str, tile: GemmTile, precision: Precision = "fp32"
    ) -> None:
        self.case, self.planes, self.tile, self.precision = case, planes, tile, precision
        geometry, batch = case.geometry, case.batch
        self.layout = group_layout(geometry, batch, planes.shape[0], PROCESSORS)
        self.steps = group_steps(self.layout, merge=merge, skip=skip)
        shape = (geometry, batch, merge, skip, planes.shape[0])
        self.code = _haste_code(*shape, case.residual is not None, case.activation, tile, precision)

    def run(self, settings: Settings, x: Tensor | None = None) -> HasteOutput:
        """Group, merge filters and convolve."""
        case, geometry = self.case, self.case.geometry
        norms = filter_norms(case.weight.double(), geometry.groups)
        made: dict[str, Tensor] = {
            "x": nhwc(case.x if x is None else x),
            "planes": torch.from_numpy(pack_planes(self.planes.numpy(), self.layout)),
            "norm2": norms.square().float(),
            "settings": torch.as_tensor(settings.pack()),
        }
        for step in self.steps:
            arguments = CudaArguments()
            arguments.read(*(made[name] for name in step.inputs))
            tensors = self.layout.tensors(*step.outputs)
            outputs = {name: arguments.write(shape, getattr(torch, dtype)) for name, shape, dtype in tensors}
            call(arguments, self.code[step.kind], *outputs.values())
            made.update(outputs)

        packed = pack_haste_filters(case.weight.numpy(), geometry, self.tile, self.precision)
        merging = CudaArguments()
        merging.read(made["order"], made["coeff"], made["starts"], made["counts"], packed)
        filters = merging.write(merged_filters_shape(geometry, case.batch, self.tile))
        call(merging, self.code["filters"], filters)

        convolving = CudaArguments()
        convolving.read(made["merged"], made["order"], made["counts"], packed, filters)
        convolving.read(torch.zeros(geometry.out_channels) if case.bias is None else case.bias)
        if case.residual is not None:
            convolving.read(nhwc(case.residual))
        y = convolving.write(case.output_shape())
        call(convolving, self.code["convolve"], y)
        shape = (case.batch, *geometry.patch_grid, geometry.groups)
        counts, bound = made["counts"].view(*shape, len(COUNTS)), made["bound"].view(shape) * geometry.taps**0.5
        return HasteOutput(nchw(y), *self._channels(made), counts, bound)

    def _channels(self, made: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Slot, coefficient and carried mean of every channel, from the kernel's lists."""
        geometry = self.case.geometry
        per_group = geometry.in_channels // geometry.groups
        order, factors, starts, counts = (
            made[name].flatten(0, 1).tolist() for name in ("order", "coeff", "starts", "counts")
        )
        slot = torch.full((len(order), per_group), -2, dtype=torch.int32)
        coeff, offset = torch.zeros(slot.shape), torch.zeros(slot.shape)
        for entry, (channels, values, first, (singles, groups, members, zeros, flats, _)) in enumerate(
            zip(order, factors, starts, counts, strict=True)
        ):
            assert singles + members + zeros + flats == per_group
            assert sorted(channels) == list(range(per_group))
            assert (first[0], first[groups], first[groups + 1]) == (0, members, members + flats)
            base = entry % geometry.groups * per_group
            for start, end in pairwise(first[: groups + 1]):
                assert end - start >= 2 and channels[start:end] == sorted(channels[start:end])
                for channel in channels[start:end]:
                    slot[entry, channel], coeff[entry, channel] = base + channels[start], values[channel]
            for channel in channels[members : members + flats]:
                slot[entry, channel], offset[entry, channel] = -1, values[channel]
            for channel in channels[members + flats : members + flats + singles]:
                slot[entry, channel], coeff[entry, channel] = base + channel, values[channel]
            for channel in channels[members + flats + singles :]:
                slot[entry, channel] = -1
        shape = (self.case.batch, *geometry.patch_grid, geometry.in_channels)
        return slot.view(shape), coeff.view(shape), offset.view(shape)
