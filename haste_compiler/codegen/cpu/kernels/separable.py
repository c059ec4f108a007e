"""A depthwise convolution and the 1×1 convolution after it, maybe with the one before, in one kernel.

A task computes a block of output rows, a strip of them at a time. What the depthwise convolution makes of a strip stays
in the task's memory, where the 1×1 convolution after it reads it. What a 1×1 convolution before makes lies in a ring of
rows: each is computed once in a task, shortly before the first strip that reads it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.depthwise import DepthwiseRows, ImagePlane
from haste_compiler.codegen.cpu.kernels.pixels import OpenProduct, PixelProduct, Source, Target
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.dynamic import Batch, images_of
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry

HELD_GAP = 16
"""Elements between pixels: strides of a power of two would all fall into one cache set."""


@dataclass(frozen=True)
class Separable:
    """What is computed.

    Attributes:
        expand: the 1×1 convolution before; None: the depthwise one reads the input.
        depthwise: geometry of the depthwise convolution.
        activation: after it.
        project: the 1×1 convolution after.
        residual: whether something is added to the result before the last activation.
        block: output rows of a task.
        strip: output rows that are computed at a time.
    """

    expand: PixelProduct | None
    depthwise: ConvGeometry
    activation: str
    project: PixelProduct
    residual: bool
    block: int
    strip: int

    @property
    def in_channels(self) -> int:
        """Of the input."""
        return self.depthwise.in_channels if self.expand is None else self.expand.geometry.in_channels

    @property
    def ring(self) -> int:
        """Rows that the ring holds, a power of two."""
        return 1 << (window_rows(self.depthwise, self.strip) - 1).bit_length()

    def arguments(self, batch: Batch) -> list[tuple[str, tuple[Any, ...], str]]:
        """(name, shape, dtype) of what the kernel takes: x, the layers' weights in order[, residual], y."""
        channels, taps = self.depthwise.in_channels, self.depthwise.taps
        out = (batch, *self.depthwise.output_size, self.project.geometry.out_channels)
        before = [] if self.expand is None else self.expand.arguments()
        return [
            ("x", (batch, *self.depthwise.input_size, self.in_channels), "float32"),
            *((f"expand_{label}", shape, dtype) for label, shape, dtype in before),
            ("taps", (taps * channels,), "float32"),
            ("bias", (channels,), "float32"),
            *((f"project_{label}", shape, dtype) for label, shape, dtype in self.project.arguments()),
            *([("residual", out, "float32")] if self.residual else []),
            ("y", out, "float32"),
        ]


def window_rows(geometry: ConvGeometry, rows: int) -> int:
    """Input rows that neighbouring output rows read."""
    return (rows - 1) * geometry.stride[0] + (geometry.kernel[0] - 1) * geometry.dilation[0] + 1


def separable_kernel(name: str, work: Separable, batch: Batch, unit: VectorUnit) -> tirx.PrimFunc:
    """The kernel of ``Separable.arguments``; images NHWC."""

    def body(*buffers: Expr) -> None:
        _Separable(work, batch, unit, buffers).write()

    return emit.kernel(name, work.arguments(batch), body)


@dataclass(frozen=True)
class _Ring:
    """Rows of an image of which the last few are in memory; see ``Plane``."""

    buffer: Expr
    pitch: int
    width: int
    rows: int

    def slot(self, row: Expr) -> Expr:
        """Where in the ring a row lies."""
        return tirx.bitwise_and(row, self.rows - 1)

    def row(self, row: Expr) -> Expr:
        """See ``Plane``."""
        return emit.bind(self.slot(row) * (self.width * self.pitch))


class _Separable:
    """Emits one kernel."""

    def __init__(self, work: Separable, batch: Batch, unit: VectorUnit, buffers: Sequence[Expr]) -> None:
        self.work, self.unit, self.images = work, unit, emit.bind(images_of(batch))
        rest = list(buffers)
        self.x, self.y = rest.pop(0), rest.pop()
        self.residual = rest.pop() if work.residual else None
        count = 0 if work.expand is None else len(work.expand.arguments())
        self.before, (taps, bias), self.after = rest[:count], rest[count : count + 2], rest[count + 2 :]
        self.rows = DepthwiseRows(work.depthwise, unit, work.activation, (taps, bias))

    def write(self) -> None:
        """All tasks, in parallel."""
        work, (out_h, out_w) = self.work, self.work.depthwise.output_size
        blocks, pitch = math.ceil(out_h / work.block), work.depthwise.out_channels + HELD_GAP
        with T.parallel(0, self.images * blocks) as task:
            image, begin = emit.bind(task // blocks), emit.bind(task % blocks * work.block)
            end = emit.bind(emit.minimum(begin + work.block, out_h))
            held = T.alloc_buffer((work.strip * out_w * pitch,), "float32")
            project = work.project.open(self.after, work.strip * out_w)
            ring, expand = self._ring()
            with T.serial(0, emit.ceil_div(end - begin, work.strip)) as number:
                first = emit.bind(begin + number * work.strip)
                rows = emit.bind(emit.minimum(work.strip, end - first))
                if ring is not None and expand is not None:
                    self._expand(expand, ring, image, (first, rows), begin)
                target = ImagePlane(held, pitch, emit.bind(-first * (out_w * pitch)), out_w)
                self.rows.write(ring or self._input(image), target, first, rows)
                source = Source(held, 0, pitch, emit.bind(rows * out_w))
                place = emit.bind((image * out_h + first) * out_w)
                project.write(source, Target(self.y, place, self.residual))

    def _input(self, image: Expr) -> ImagePlane:
        """The image, as the depthwise convolution reads it."""
        channels, (height, width) = self.work.depthwise.in_channels, self.work.depthwise.input_size
        return ImagePlane(self.x, channels, emit.bind(image * (height * width * channels)), width)

    def _ring(self) -> tuple[_Ring | None, OpenProduct | None]:
        """The ring of expanded rows, and what fills it."""
        work, channels, width = self.work, self.work.depthwise.in_channels, self.work.depthwise.input_size[1]
        if work.expand is None:
            return None, None
        buffer = T.alloc_buffer((work.ring * width * channels,), "float32")
        return _Ring(buffer, channels, width, work.ring), work.expand.open(self.before, width)

    def _expand(self, expand: OpenProduct, ring: _Ring, image: Expr, strip: tuple[Expr, Expr], begin: Expr) -> None:
        """Fill the ring with what a strip reads and none before it did; ``begin`` is the task's first row."""
        geometry, (first, rows) = self.work.depthwise, strip
        (height, width), stride, top = geometry.input_size, geometry.stride[0], geometry.padding[0]
        reach = window_rows(geometry, 1)
        high = emit.bind(emit.minimum((first + rows - 1) * stride - top + reach, height))
        made = emit.bind((first - 1) * stride - top + reach)
        low = emit.bind(T.max(0, T.max(first * stride - top, tirx.Select(first == begin, 0, made))))
        with T.serial(low, T.max(low, high)) as row:
            channels = self.work.in_channels
            start = emit.bind((image * height + row) * (width * channels))
            expand.write(Source(self.x, start, channels, width), Target(ring.buffer, emit.bind(ring.slot(row) * width)))
