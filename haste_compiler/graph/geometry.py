"""Where a convolution's patches and the windows they read lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from haste_compiler.errors import InputError

Pair = tuple[int, int]

WindowNumbers = tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int], int, Sequence[int]]
"""Kernel, stride, padding, dilation, groups, patch, as custom operators pass them; see ``ConvGeometry``."""


@dataclass(frozen=True)
class ConvGeometry:
    """The shape of one 2-d convolution on one input size, and of its output plane's cut into patches.

    The output plane is cut from its top-left corner into patches; those at the bottom and right edges may be smaller.
    A patch reads a *window* of the input, from the first pixel that its first output reads to the last that its last
    output reads; pixels that stride or dilation step over lie in it too. Every window has the size of a full patch's.
    Its pixels outside the image (the padding), and in smaller patches those beyond the last one read, hold zero.

    Attributes:
        in_channels: input channels C.
        out_channels: output channels K.
        kernel: kernel height and width in taps.
        stride: vertical and horizontal stride.
        padding: zero rows and columns added: top, bottom, left, right.
        dilation: vertical and horizontal dilation.
        groups: convolution groups; divides C and K.
        input_size: height and width of the input, without padding.
        patch: patch height and width in output pixels, as asked for.

    Raises:
        InputError: a number is out of range, the groups do not divide the channels, or the output would be empty.
    """

    in_channels: int
    out_channels: int
    kernel: Pair
    stride: Pair
    padding: tuple[int, int, int, int]
    dilation: Pair
    groups: int
    input_size: Pair
    patch: Pair

    def __post_init__(self) -> None:
        """Check the numbers; lists become tuples, so that geometries can be compared and hashed."""
        for name, length in (
            ("kernel", 2),
            ("stride", 2),
            ("padding", 4),
            ("dilation", 2),
            ("input_size", 2),
            ("patch", 2),
        ):
            numbers = tuple(getattr(self, name))
            least = 0 if name in ("padding", "input_size") else 1
            if len(numbers) != length or any(number < least for number in numbers):
                raise InputError(f"{name} must be {length} integers of at least {least}, not {numbers}")
            object.__setattr__(self, name, numbers)
        if self.groups < 1 or self.in_channels % self.groups or self.out_channels % self.groups:
            raise InputError(
                f"groups={self.groups} does not divide {self.in_channels} input and {self.out_channels} output channels"
            )
        if min(self.output_size) < 1:
            raise InputError(
                f"an input of {self.input_size[0]}x{self.input_size[1]} pixels with padding {self.padding} is smaller "
                f"than the {self.kernel[0]}x{self.kernel[1]} kernel with dilation {self.dilation}"
            )

    @cached_property
    def output_size(self) -> Pair:
        """Output height and width in pixels."""
        top, bottom, left, right = self.padding
        height = (self.input_size[0] + top + bottom - self._reach[0] - 1) // self.stride[0] + 1
        width = (self.input_size[1] + left + right - self._reach[1] - 1) // self.stride[1] + 1
        return height, width

    @cached_property
    def effective_patch(self) -> Pair:
        """Patch height and width, cut to the output plane."""
        return min(self.patch[0], self.output_size[0]), min(self.patch[1], self.output_size[1])

    @cached_property
    def patch_grid(self) -> Pair:
        """Number of patches down and across, (PH, PW)."""
        (height, width), (sh, sw) = self.output_size, self.effective_patch
        return -(-height // sh), -(-width // sw)

    @cached_property
    def window(self) -> Pair:
        """Window height and width in input pixels: (s - 1) * stride + (k - 1) * dilation + 1."""
        sh, sw = self.effective_patch
        return (sh - 1) * self.stride[0] + self._reach[0] + 1, (sw - 1) * self.stride[1] + self._reach[1] + 1

    @property
    def window_pixels(self) -> int:
        """Input pixels of one window."""
        return self.window[0] * self.window[1]

    @cached_property
    def window_step(self) -> Pair:
        """Input pixels from one window to the next, down and across."""
        return self.effective_patch[0] * self.stride[0], self.effective_patch[1] * self.stride[1]

    @cached_property
    def read_size(self) -> Pair:
        """Height and width of what the whole output plane reads, from the padding's top-left corner."""
        height, width = self.output_size
        return (height - 1) * self.stride[0] + self._reach[0] + 1, (width - 1) * self.stride[1] + self._reach[1] + 1

    @property
    def dense_macs(self) -> int:
        """Multiply-adds of the plain convolution on one image."""
        return (
            self.out_channels * self.in_channels // self.groups * self.taps * self.output_size[0] * self.output_size[1]
        )

    @property
    def taps(self) -> int:
        """Taps of the kernel, kh * kw."""
        return self.kernel[0] * self.kernel[1]

    @property
    def is_depthwise(self) -> bool:
        """One input channel and one filter a group."""
        return self.groups == self.in_channels == self.out_channels and self.groups > 1

    def window_origin(self, row: int, column: int) -> Pair:
        """Input row and column of a window's top-left pixel; negative where the window begins in the padding."""
        return row * self.window_step[0] - self.padding[0], column * self.window_step[1] - self.padding[2]

    def patch_outputs(self, row: int, column: int) -> Pair:
        """Output rows and columns of one patch: fewer than ``effective_patch`` at the bottom and right edges."""
        (height, width), (sh, sw) = self.output_size, self.effective_patch
        return min(sh, height - row * sh), min(sw, width - column * sw)

    def reads_padding(self, row: int, column: int) -> bool:
        """Whether the outputs of one patch read a pixel outside the image."""
        top, left = self.window_origin(row, column)
        rows, columns = self.patch_outputs(row, column)
        bottom = top + (rows - 1) * self.stride[0] + self._reach[0]
        right = left + (columns - 1) * self.stride[1] + self._reach[1]
        return top < 0 or left < 0 or bottom >= self.input_size[0] or right >= self.input_size[1]

    @property
    def _reach(self) -> Pair:
        """Input pixels from a kernel's first tap to its last."""
        return (self.kernel[0] - 1) * self.dilation[0], (self.kernel[1] - 1) * self.dilation[1]


def window_geometry(
    in_channels: int,
    input_size: Sequence[int],
    window: WindowNumbers,
    out_channels: int | None = None,
) -> ConvGeometry:
    """Build a ``ConvGeometry`` from the numbers that the custom operators pass.

    Without ``out_channels`` there is one filter a group: windows, codes and groups do not depend on it.

    Raises:
        InputError: see ``ConvGeometry``.
    """
    kernel, stride, padding, dilation, groups, patch = window
    return ConvGeometry(
        in_channels,
        groups if out_channels is None else out_channels,
        (kernel[0], kernel[1]),
        (stride[0], stride[1]),
        (padding[0], padding[1], padding[2], padding[3]),
        (dilation[0], dilation[1]),
        groups,
        (input_size[0], input_size[1]),
        (patch[0], patch[1]),
    )


def row_geometry(channels: int, filters: int, rows: int) -> ConvGeometry:
    """The 1×1 convolution of a row of pixels that a linear layer is."""
    return ConvGeometry(channels, filters, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (1, rows), (1, 1))
