"""Where the taps of a transposed convolution lie: its output cut into phases that are plain convolutions.

With a stride of s, every s-th output pixel along an axis meets the same taps of the kernel, on neighbouring pixels of
the input. Such pixels are a phase: a plain convolution of stride 1 with those taps, in the order of what they read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from haste_compiler.errors import InputError
from haste_compiler.graph.geometry import Pair

Ints = Sequence[int]

TransposedNumbers = tuple[Ints, Ints, Ints, Ints, Ints, int]
"""Kernel, stride, padding, output padding, dilation, groups, as the custom operator passes them."""


@dataclass(frozen=True)
class Phase:
    """Some output pixels along an axis.

    Attributes:
        first: the q-th of them reads from input pixel ``q + first`` on; 0 where it reads none.
        taps: the kernel's taps, in the order of the input pixels that they meet.
    """

    first: int
    taps: tuple[int, ...]


@dataclass(frozen=True)
class Axis:
    """One axis of the image: pixel ``q * len(phases) + r - before`` of the output is the q-th of phase r.

    Attributes:
        input_size: input pixels.
        output_size: output pixels.
        phases: by r.
        spread: input pixels from one tap of a phase to the next.
        before: pixels of the first phases that lie before the output.
    """

    input_size: int
    output_size: int
    phases: tuple[Phase, ...]
    spread: int
    before: int = 0

    @property
    def count(self) -> int:
        """Pixels of the largest phase; the last phases may have one less."""
        return -(-(self.output_size + self.before) // len(self.phases))

    @property
    def is_even(self) -> bool:
        """Whether all phases have the same number of pixels, all of them in the output."""
        return not self.before and self.output_size % len(self.phases) == 0

    @property
    def is_uniform(self) -> bool:
        """Whether all phases read the same pixels."""
        return len({(phase.first, len(phase.taps)) for phase in self.phases}) == 1

    @cached_property
    def first(self) -> int:
        """The first input pixel that any phase's first output reads; negative where it lies off the image."""
        return min((phase.first for phase in self.phases if phase.taps), default=0)

    @cached_property
    def span(self) -> int:
        """Input pixels from that one to the last that any phase's first output reads."""
        reached = (phase.first + (len(phase.taps) - 1) * self.spread for phase in self.phases if phase.taps)
        return max(reached, default=self.first) - self.first

    @property
    def padding(self) -> Pair:
        """Zero pixels that the phases read before and after the image."""
        last = self.first + self.count - 1 + self.span
        return max(0, -self.first), max(0, last - self.input_size + 1)


@dataclass(frozen=True)
class TransposedGeometry:
    """The shape of one transposed 2-d convolution on one input size.

    Attributes:
        in_channels: input channels C.
        out_channels: output channels K.
        kernel: kernel height and width in taps.
        stride: output pixels from one input pixel to the next, down and across.
        padding: output rows cut off at the top and the bottom, columns at the left and the right.
        output_padding: rows added at the bottom, columns at the right.
        dilation: vertical and horizontal dilation.
        groups: convolution groups; divides C and K.
        input_size: height and width of the input.

    Raises:
        InputError: the groups do not divide the channels, or the output would be empty.
    """

    in_channels: int
    out_channels: int
    kernel: Pair
    stride: Pair
    padding: Pair
    output_padding: Pair
    dilation: Pair
    groups: int
    input_size: Pair

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.groups < 1 or self.in_channels % self.groups or self.out_channels % self.groups:
            raise InputError(
                f"groups={self.groups} does not divide {self.in_channels} input and {self.out_channels} output channels"
            )
        if min(self.output_size) < 1:
            raise InputError(
                f"a transposed convolution of {self.input_size[0]}x{self.input_size[1]} pixels with padding "
                f"{self.padding} has no output"
            )

    @cached_property
    def output_size(self) -> Pair:
        """Output height and width in pixels."""
        height, width = (
            (self.input_size[axis] - 1) * self.stride[axis]
            - 2 * self.padding[axis]
            + (self.kernel[axis] - 1) * self.dilation[axis]
            + self.output_padding[axis]
            + 1
            for axis in (0, 1)
        )
        return height, width

    @property
    def is_depthwise(self) -> bool:
        """One input channel and one output channel a group."""
        return self.groups == self.in_channels == self.out_channels and self.groups > 1

    @property
    def is_tiling(self) -> bool:
        """Whether every input pixel has a block of outputs to itself, of all its channels, and no output is cut off."""
        plain = (self.padding, self.output_padding, self.dilation, self.groups) == ((0, 0), (0, 0), (1, 1), 1)
        return plain and self.kernel == self.stride

    @cached_property
    def axes(self) -> tuple[Axis, Axis]:
        """The vertical and the horizontal axis."""
        return self._axis(0), self._axis(1)

    @property
    def aligned(self) -> Axis:
        """The horizontal axis in phases that begin where the padding does: with all kernels that the stride divides,
        all phases read the same pixels."""
        stride, size, outputs = self.stride[1], self.input_size[1], self.output_size[1]
        before = self.padding[1] % stride
        count = -(-(outputs + before) // stride)
        phases = tuple(self._phase(1, r - before, count) for r in range(stride))
        return Axis(size, outputs, phases, self._spread(1), before)

    def _axis(self, axis: int) -> Axis:
        stride, size, outputs = self.stride[axis], self.input_size[axis], self.output_size[axis]
        count = min(stride, outputs)
        phases = tuple(self._phase(axis, r, -(-(outputs - r) // count)) for r in range(count))
        return Axis(size, outputs, phases, self._spread(axis))

    def _spread(self, axis: int) -> int:
        return self.dilation[axis] // math.gcd(self.stride[axis], self.dilation[axis])

    def _phase(self, axis: int, r: int, pixels: int) -> Phase:
        """The phase of every stride-th pixel from the r-th on, so many; taps that never meet the image are left out."""
        stride, size = self.stride[axis], self.input_size[axis]
        met = []
        for tap in reversed(range(self.kernel[axis])):
            place, off = divmod(r + self.padding[axis] - tap * self.dilation[axis], stride)
            if not off and place + pixels > 0 and place < size:
                met.append((place, tap))
        return Phase(met[0][0] if met else 0, tuple(tap for _, tap in met))


def transposed_geometry(
    in_channels: int, input_size: Sequence[int], numbers: TransposedNumbers, group_filters: int
) -> TransposedGeometry:
    """Build a ``TransposedGeometry`` from the numbers that the custom operator passes.

    Args:
        in_channels: input channels.
        input_size: height and width of the input.
        numbers: of the operator.
        group_filters: output channels of a conv group.

    Raises:
        InputError: see ``TransposedGeometry``.
    """
    kernel, stride, padding, output_padding, dilation, groups = numbers
    return TransposedGeometry(
        in_channels,
        groups * group_filters,
        _pair(kernel),
        _pair(stride),
        _pair(padding),
        _pair(output_padding),
        _pair(dilation),
        groups,
        _pair(input_size),
    )


def _pair(values: Ints) -> Pair:
    return values[0], values[1]
