"""Builds single kernels and runs them between guards: what lies around a tensor must be neither read nor written."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from torch import Tensor
from tvm import tirx

from haste_compiler.codegen.cpu.kernels.conv2d import conv_work, pack_bias
from haste_compiler.codegen.cpu.kernels.dense import DenseTiling, choose_dense, dense_kernel, pack_dense
from haste_compiler.codegen.cpu.kernels.depthwise import depthwise_kernel, pack_depthwise_filters
from haste_compiler.codegen.cpu.kernels.pooling import pooling_kernel
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.cpu.tiling import choose_tiling
from haste_compiler.codegen.pooling import Pooling
from haste_compiler.codegen.target import machine_of, parse_target
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.counts import COUNTS
from haste_compiler.methods.haste.cpu.convolve import haste_convolve_kernel
from haste_compiler.methods.haste.cpu.filters import pack_haste_filters, pack_tap_sums
from haste_compiler.methods.haste.cpu.group import haste_group_kernel
from haste_compiler.methods.haste.cpu.hashing import pack_hyperplanes
from haste_compiler.methods.haste.cpu.layout import group_layout, may_restore
from haste_compiler.methods.haste.cpu.reduction import Reduction
from haste_compiler.methods.haste.cpu.tiling import HasteTiling, choose_haste_tiling
from haste_compiler.methods.haste.reference.grouping import filter_norms
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.ops.conv2d import conv2d
from tests.codegen.cross import EmulatedLibrary, is_foreign

TARGETS = ("llvm", "llvm -mcpu=haswell", "llvm -mcpu=x86-64")
"""What the kernels are built for and run on: this machine, 8 lanes and 16 registers, 4 lanes and 16 registers."""

GUARD = 64

on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="runs code for x86-64")


def targets() -> Sequence[str]:
    """The targets that this machine can run."""
    return TARGETS if platform.machine() == "x86_64" else TARGETS[:1]


def build(functions: Mapping[str, tirx.PrimFunc], target: str) -> Any:
    """Machine code of some kernels; ``[name]`` is the function."""
    machine = machine_of(parse_target(target))
    with machine.pass_context():
        code = tvm.compile(tvm.IRModule(dict(functions)), target=machine.generated)
    return EmulatedLibrary(code, target) if is_foreign(target) else code


class Arguments:
    """Tensors with guards around them: NaN in a read value spreads to the result, a written guard is seen."""

    def __init__(self) -> None:
        self._whole: list[tuple[Tensor, Tensor]] = []
        self.tensors: list[Tensor] = []

    def read(self, *values: Tensor | np.ndarray[Any, Any]) -> None:
        """Add what the kernel reads."""
        for value in values:
            tensor = torch.as_tensor(value)
            self._add(tensor.shape, tensor.dtype).copy_(tensor)

    def write(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Add what the kernel writes, and return it."""
        return self._add(shape, dtype)

    def _add(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        size = int(np.prod(list(shape)))
        guard = torch.nan if dtype == torch.float32 else torch.iinfo(dtype).min // 2
        whole = torch.full((size + 2 * GUARD,), guard, dtype=dtype)
        tensor = whole[GUARD : GUARD + size].view(tuple(shape))
        self._whole.append((whole, whole.clone()))
        self.tensors.append(tensor)
        return tensor

    def call(self, function: Any) -> None:
        """Call the kernel, and check the guards."""
        function(*(tvm.runtime.from_dlpack(tensor) for tensor in self.tensors))
        self.check_guards()

    def check_guards(self) -> None:
        """Check that nothing was written around the tensors."""
        for whole, before in self._whole:
            for side in (slice(0, GUARD), slice(-GUARD, None)):
                torch.testing.assert_close(whole[side], before[side], rtol=0, atol=0, equal_nan=True)


def run_kernel(
    kernel: tirx.PrimFunc, target: str, shape: Sequence[int], *values: Tensor | np.ndarray[Any, Any]
) -> Tensor:
    """What a kernel that reads ``values`` writes, one tensor of ``shape``."""
    name = str(kernel.attrs["global_symbol"])
    arguments = Arguments()
    arguments.read(*values)
    y = arguments.write(shape)
    arguments.call(build({name: kernel}, target)[name])
    return y


def nhwc(x: Tensor) -> Tensor:
    """(N, C, H, W) to contiguous (N, H, W, C)."""
    return x.permute(0, 2, 3, 1).contiguous()


def nchw(x: Tensor) -> Tensor:
    """(N, H, W, C) to (N, C, H, W)."""
    return x.permute(0, 3, 1, 2)


@dataclass
class ConvCase:
    """A convolution's tensors."""

    geometry: ConvGeometry
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    residual: Tensor | None
    activation: str

    @property
    def batch(self) -> int:
        return self.x.shape[0]

    def output_shape(self) -> tuple[int, ...]:
        """NHWC."""
        return (self.batch, *self.geometry.output_size, self.geometry.out_channels)

    def expected(self, operand: Callable[[Tensor], Tensor] = Tensor.double) -> Tensor:
        """What a kernel should return, in double precision; ``operand`` makes what is multiplied of x and filters."""
        geometry = self.geometry
        bias, residual = (None if value is None else value.double() for value in (self.bias, self.residual))
        sizes = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
        result: Tensor = conv2d(operand(self.x), operand(self.weight), bias, residual, *sizes, self.activation)
        return result


def assert_near(y: Tensor, wanted: Tensor, limit: float = 2e-6) -> None:
    """Check an output by the norm of its error."""
    error = (y.double() - wanted).norm()
    assert error <= limit * wanted.norm() + 1e-5, f"relative error {error / wanted.norm():.1e}"


def conv_case(
    geometry: ConvGeometry, batch: int, x: Tensor | None = None, *, bias: bool, residual: bool, activation: str
) -> ConvCase:
    """Random tensors for a convolution."""
    weight = torch.randn(geometry.out_channels, geometry.in_channels // geometry.groups, *geometry.kernel)
    return ConvCase(
        geometry,
        torch.randn(batch, geometry.in_channels, *geometry.input_size) if x is None else x,
        # Outputs of about unit variance, where every activation is curved.
        weight / (weight[0].numel() ** 0.5),
        torch.randn(geometry.out_channels) if bias else None,
        torch.randn(batch, geometry.out_channels, *geometry.output_size) if residual else None,
        activation,
    )


def run_conv2d(case: ConvCase, target: str, threads: int = 1) -> Tensor:
    """The output of the plain dense kernel, (N, K, OH, OW)."""
    work = conv_work(case.geometry, case.batch)
    return run_dense(case, target, choose_tiling(work, vector_unit(parse_target(target)), threads))


def run_dense(case: ConvCase, target: str, tiling: DenseTiling) -> Tensor:
    """The output of a dense kernel, (N, K, OH, OW)."""
    kernel = dense_kernel(
        "conv", case.geometry, case.batch, tiling, residual=case.residual is not None, activation=case.activation
    )
    bias = None if case.bias is None else case.bias.numpy()
    arguments = Arguments()
    arguments.read(nhwc(case.x), *pack_dense(case.weight.numpy(), bias, case.geometry, tiling))
    return finish(case, arguments, build({"conv": kernel}, target)["conv"])


def run_depthwise(case: ConvCase, target: str, threads: int = 1) -> Tensor:
    """The output of the depthwise kernel, (N, C, OH, OW)."""
    unit = vector_unit(parse_target(target))
    kernel = depthwise_kernel(
        "conv",
        case.geometry,
        case.batch,
        unit,
        threads,
        residual=case.residual is not None,
        activation=case.activation,
    )
    arguments = Arguments()
    bias = torch.zeros(case.geometry.out_channels) if case.bias is None else case.bias
    arguments.read(nhwc(case.x), pack_depthwise_filters(case.weight.numpy()), bias)
    return finish(case, arguments, build({"conv": kernel}, target)["conv"])


def finish(case: ConvCase, arguments: Arguments, function: Any) -> Tensor:
    """Add residual and output to a kernel's arguments, run it, and return what it wrote, (N, K, OH, OW)."""
    if case.residual is not None:
        arguments.read(nhwc(case.residual))
    y = arguments.write(case.output_shape())
    arguments.call(function)
    return nchw(y)


def run_pooling(pooling: Pooling, x: Tensor, target: str) -> Tensor:
    """The output of a pooling kernel, (N, C, OH, OW)."""
    lanes = vector_unit(parse_target(target)).lanes
    kernel = pooling_kernel("pool", pooling, x.shape[0], x.shape[1], lanes)
    return nchw(run_kernel(kernel, target, (x.shape[0], *pooling.output_size, x.shape[1]), nhwc(x)))


@dataclass
class HasteOutput:
    """What the two HASTE kernels made; names and shapes as in the package."""

    y: Tensor
    slot: Tensor
    coeff: Tensor
    offset: Tensor
    counts: Tensor
    bound: Tensor
    chosen: int = 1


@lru_cache(maxsize=32)
def _haste_code(
    geometry: ConvGeometry,
    batch: int,
    merge: str,
    skip: str,
    planes: int,
    residual: bool,
    activation: str,
    target: str,
    tile: HasteTiling,
    dense: DenseTiling | None,
) -> Any:
    """Machine code of the two kernels: many tests want the same, with other settings and images."""
    lanes = vector_unit(parse_target(target)).lanes
    gated = dense is not None
    group = haste_group_kernel(
        "group", geometry, batch, lanes, reduction=Reduction(merge, skip), planes=planes, gated=gated, kept=tile.kept
    )
    convolve = haste_convolve_kernel(
        "convolve",
        geometry,
        batch,
        tile,
        reduction=Reduction(merge, skip),
        residual=residual,
        activation=activation,
        dense=dense,
    )
    return build({"group": group, "convolve": convolve}, target)


class HasteKernels:
    """The two kernels of a HASTE convolution, built once; ``run`` takes other settings and images each time."""

    def __init__(
        self,
        case: ConvCase,
        planes: Tensor,
        merge: str,
        skip: str,
        target: str,
        threads: int = 1,
        gated: bool = False,
        kept: int | None = None,
    ) -> None:
        """``kept``: images whose windows are kept between the kernels, see ``kept_images``; None: of all."""
        geometry, unit = case.geometry, vector_unit(parse_target(target))
        self.dense = choose_dense(geometry, case.batch, unit, threads, 4) if gated else None
        self.case, self.planes = case, planes
        self.layout = group_layout(geometry, case.batch, unit.lanes, kept)
        self.restores = may_restore(case.batch, kept)
        self.tile = replace(choose_haste_tiling(geometry, case.batch, unit, threads), kept=kept)
        self.code = _haste_code(
            geometry,
            case.batch,
            merge,
            skip,
            planes.shape[0],
            case.residual is not None,
            case.activation,
            target,
            self.tile,
            self.dense,
        )

    def run(self, settings: Settings, x: Tensor | None = None, gate: Tensor | None = None) -> HasteOutput:
        """Group and convolve; ``gate`` where the kernels have one."""
        case, geometry = self.case, self.case.geometry
        norms = filter_norms(case.weight.double(), geometry.groups)
        images = nhwc(case.x if x is None else x)
        grouping = Arguments()
        grouping.read(images, pack_hyperplanes(self.planes.numpy()))
        grouping.read(norms.square().float(), settings.pack(), *([] if gate is None else [gate]))
        made = [grouping.write(shape, getattr(torch, dtype)) for _, shape, dtype in self.layout.tensors()]
        chosen = torch.ones(1, dtype=torch.int32) if gate is None else grouping.write((1,), torch.int32)
        grouping.call(self.code["group"])

        weight, bias = case.weight.numpy(), None if case.bias is None else case.bias.numpy()
        convolving, tile = Arguments(), self.tile.tile
        if self.dense:
            convolving.read(chosen, images, *pack_dense(weight, bias, geometry, self.dense))
        elif self.restores:
            convolving.read(images)
        convolving.read(
            *made[:-1],
            pack_haste_filters(weight, geometry.groups, tile),
            pack_tap_sums(weight, geometry.groups, tile),
            pack_bias(bias, geometry.out_channels, geometry.groups, tile),
        )
        y = finish(case, convolving, self.code["convolve"])
        lists = self._channels(made[-6:-1]) if chosen.item() else (torch.empty(0),) * 3
        return HasteOutput(y, *lists, *self._numbers(made[-2], made[-1]), int(chosen))

    def _channels(self, lists: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Slot, coefficient and carried mean of every channel, from the kernels' lists."""
        order, factors, starts, rows, counts = (tensor.flatten(0, 1).tolist() for tensor in lists)
        per_group = self.case.geometry.in_channels // self.case.geometry.groups
        slot = torch.full((len(order), per_group), -2, dtype=torch.int32)
        coeff, offset = torch.zeros(slot.shape), torch.zeros(slot.shape)
        for entry, (channels, values, first, sums, (singles, groups, members, zeros, flats, _)) in enumerate(
            zip(order, factors, starts, rows, counts, strict=True)
        ):
            assert singles + members + zeros + flats == per_group
            assert sorted(channels) == list(range(per_group))
            assert (first[0], first[groups]) == (0, members)
            assert all(per_group <= row < per_group + per_group // 2 for row in sums[:groups])
            assert len(set(sums[:groups])) == groups
            base = entry % self.case.geometry.groups * per_group
            for channel in channels[members : members + singles]:
                slot[entry, channel], coeff[entry, channel] = base + channel, 1
            for start, end in pairwise(first[: groups + 1]):
                assert end - start >= 2 and channels[start:end] == sorted(channels[start:end])
                for channel, value in zip(channels[start:end], values[start:end], strict=True):
                    slot[entry, channel], coeff[entry, channel] = base + channels[start], value
            end = singles + members
            for channel, value in zip(channels[end : end + flats], values[end : end + flats], strict=True):
                slot[entry, channel], offset[entry, channel] = -1, value
            for channel in channels[end + flats :]:
                slot[entry, channel] = -1
        shape = (self.case.batch, *self.case.geometry.patch_grid, self.case.geometry.in_channels)
        return slot.view(shape), coeff.view(shape), offset.view(shape)

    def _numbers(self, counts: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        geometry = self.case.geometry
        shape = (self.case.batch, *geometry.patch_grid, geometry.groups)
        return counts.view(*shape, len(COUNTS)), bound.view(shape) * geometry.taps**0.5
