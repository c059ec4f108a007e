"""What of HASTE's kernels is timed to fit the cost model: real kernels, on inputs whose channels are known to merge."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.job import Trial
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.config import MAX_HYPERPLANES
from haste_compiler.methods.haste.cpu.convolve import haste_convolve_kernel
from haste_compiler.methods.haste.cpu.cost import convolve_features, group_features
from haste_compiler.methods.haste.cpu.group import haste_group_kernel
from haste_compiler.methods.haste.cpu.hashing import pack_hyperplanes
from haste_compiler.methods.haste.cpu.reduction import Reduction
from haste_compiler.methods.haste.cpu.tiling import choose_haste_tiling
from haste_compiler.methods.haste.found import Merging, borders
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.settings import Settings


def _square(channels: int, filters: int, side: int, patch: int, kernel: int = 3, stride: int = 1) -> ConvGeometry:
    around = (kernel // 2,) * 4
    return ConvGeometry(
        channels, filters, (kernel, kernel), (stride, stride), around, (1, 1), 1, (side, side), (patch, patch)
    )


_CONVOLUTIONS = (
    _square(128, 128, 28, 7),
    _square(512, 512, 7, 7),
    _square(16, 16, 8, 8),
    _square(128, 64, 14, 7, kernel=1),
)
"""Convolutions that are timed dense and as HASTE convolutions. Building their kernels is what takes time, and these few
go through every phase: a dozen predict one another no better."""


_REDUCTION = Reduction("projection", "flat")


@dataclass(frozen=True)
class _State:
    """An input of calibration: shares of its channels that are flat, or copies in groups of ``size``; the settings."""

    flats: float = 0.0
    copies: float = 0.0
    size: int = 2
    planes: int = 10
    tolerance: float = 0.3


_STATES = (
    _State(),
    _State(flats=0.5),
    _State(flats=0.9),
    _State(copies=0.5),
    _State(copies=0.9, size=4),
    _State(flats=0.25, copies=0.25),
    _State(planes=4),
    _State(planes=20),
    _State(copies=0.5, planes=4, tolerance=math.inf),
)


def trials(machine: Cpu) -> Iterator[Trial]:
    """The convolutions to be timed, by projection and with flat channels dropped."""
    for geometry in _CONVOLUTIONS:
        yield _trial(machine, geometry)


def _trial(machine: Cpu, geometry: ConvGeometry) -> Trial:
    unit, threads = machine.unit, machine.threads
    tiling = choose_haste_tiling(geometry, 1, unit, threads)
    kernels = {
        "group": haste_group_kernel(
            "group",
            geometry,
            1,
            unit.lanes,
            reduction=_REDUCTION,
            planes=MAX_HYPERPLANES,
            kept=tiling.kept,
        ),
        "convolve": haste_convolve_kernel("convolve", geometry, 1, tiling, reduction=_REDUCTION),
    }
    planes = pack_hyperplanes(draw_hyperplanes(geometry.window_pixels, 0, "calibration").numpy())
    values = {"planes": planes, "filter_norm2": torch.ones(geometry.in_channels).numpy()}

    def work(state: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        counts = tensors["counts"].flatten(0, -2).double().numpy()
        found, used = Merging(counts.copy(), borders(geometry)), Settings.unpack(state["settings"]).num_hyperplanes
        return {
            "group": group_features(geometry, 1, unit, threads, used, None, found),
            "convolve": convolve_features(geometry, 1, unit, threads, _REDUCTION.skip, found),
        }

    return Trial(geometry, kernels, values, [_inputs(geometry, state) for state in _STATES], work)


def _inputs(geometry: ConvGeometry, state: _State) -> dict[str, Tensor]:
    return {
        "x": make_input(geometry, state.flats, state.copies, state.size),
        "settings": Settings(state.planes, state.tolerance, 0.1).pack(),
    }


def make_input(geometry: ConvGeometry, flats: float, copies: float, size: int) -> Tensor:
    """An image (1, H, W, C) of noise of which some channels are flat, and others copies in groups of ``size``."""
    generator = torch.Generator().manual_seed(0)
    channels = geometry.in_channels
    x = torch.randn(channels, *geometry.input_size, generator=generator)
    copied, flat = round(copies * channels), round(flats * channels)
    x[:copied] = x[torch.arange(copied) // size * size]
    # Far from flat next to each other, so that no two of them look alike.
    x[channels - flat :] = 1 + 1e-3 * x[channels - flat :]
    # Kinds take turns, as they do in a network.
    order = torch.randperm(channels, generator=generator)
    return x[order].permute(1, 2, 0).unsqueeze(0).contiguous()
