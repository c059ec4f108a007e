"""Whether a depthwise convolution is computed with the 1×1 convolutions around it, from a model of the caches."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from haste_compiler.codegen.cpu.kernels.separable import HELD_GAP, window_rows
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import L3_BYTES_PER_CYCLE
from haste_compiler.graph.geometry import ConvGeometry

_STRIP_PIXELS = 56
"""Of a strip of output rows, about: fewer would read filters too often, more would leave the near caches."""

_SPARE_REGISTERS = 2
"""That register tiles leave free: in a kernel of several loops LLVM would keep the sums of larger ones in memory."""

_SEEN = 0.5
"""Share of the time of reading and writing that products don't hide."""

_LEAST_SHARE = 0.01
"""Of the time of the products that must be saved: the model is no more exact."""


@dataclass(frozen=True)
class Cut:
    """How a depthwise convolution and its neighbours are cut.

    Attributes:
        block: output rows of a task.
        strip: output rows that are computed at a time.
    """

    block: int
    strip: int


@dataclass(frozen=True)
class Neighbour:
    """A 1×1 convolution before or after the depthwise one.

    Attributes:
        filter_bytes: of all its filters.
        cycles: of its products, all images'.
    """

    filter_bytes: int
    cycles: float


def tile_unit(unit: VectorUnit) -> VectorUnit:
    """The vector unit that register tiles of such a kernel are chosen for."""
    return replace(unit, registers=unit.registers - _SPARE_REGISTERS)


def cut(geometry: ConvGeometry, batch: int, threads: int) -> Cut:
    """How the output of a depthwise convolution is cut: as few tasks as there are threads, for rows at the seams are
    expanded twice."""
    out_h, out_w = geometry.output_size
    block = math.ceil(out_h / math.ceil(threads / batch))
    strips = math.ceil(block / max(1, math.ceil(_STRIP_PIXELS / out_w)))
    return Cut(block, math.ceil(block / strips))


def saved_cycles(
    geometry: ConvGeometry,
    batch: int,
    unit: VectorUnit,
    threads: int,
    before: Neighbour | None,
    after: Neighbour,
) -> float:
    """Modelled cycles that the busiest thread saves by computing them in one kernel.

    Saved are a write and a read, past the second-level cache, of what the layers hand to each other. Lost is reading
    filters again for every strip where that cache can't hold them beside what a task works on, and expanding the rows
    at the seams between tasks twice. Where it can't hold them, a ring of expanded rows would leave it too.

    Args:
        geometry: of the depthwise convolution.
        batch: images.
        unit: the target's vector unit and caches.
        threads: at least 1.
        before: the 1×1 convolution before, if that is to be in the kernel.
        after: the one after.
    """
    cuts, (out_h, out_w), channels = cut(geometry, batch, threads), geometry.output_size, geometry.in_channels
    height, width = geometry.input_size
    handed = [4 * batch * out_h * out_w * channels]
    held = 4 * cuts.strip * out_w * (channels + HELD_GAP)
    filter_bytes, seams = after.filter_bytes, 0.0
    if before is not None:
        handed.append(4 * batch * height * width * channels)
        held += 4 * window_rows(geometry, cuts.strip) * width * channels
        filter_bytes += before.filter_bytes
        inner = math.ceil(out_h / cuts.block) - 1
        seams = before.cycles / threads * inner * max(0, window_rows(geometry, 1) - geometry.stride[0]) / height
    fits = filter_bytes + held <= unit.l2_bytes
    if before is not None and not fits:
        return 0.0
    strips = math.ceil(cuts.block / cuts.strip) * math.ceil(batch / threads)
    saved = sum(2 * size for size in handed if size > unit.l2_bytes) / threads
    again = 0 if fits else filter_bytes * (strips - 1)
    return _SEEN * (saved - again) / L3_BYTES_PER_CYCLE - seams


def pays(saved: float, before: Neighbour | None, after: Neighbour, threads: int) -> bool:
    """Whether what ``saved_cycles`` says is worth it."""
    return saved > _LEAST_SHARE * (after.cycles + (before.cycles if before else 0.0)) / threads
