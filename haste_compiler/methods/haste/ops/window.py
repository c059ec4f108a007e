"""How operators that read windows name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from haste_compiler.graph.geometry import ConvGeometry, window_geometry
from haste_compiler.ops.call import OpCall

Ints = Sequence[int]

WINDOW = "int[] kernel, int[] stride, int[] padding, int[] dilation, int groups, int[] patch"
"""In a schema, the arguments that say which windows are read."""


@dataclass(frozen=True)
class Window:
    """These arguments, as values."""

    kernel: Ints
    stride: Ints
    padding: Ints
    dilation: Ints
    groups: int
    patch: Ints

    @classmethod
    def of(cls, geometry: ConvGeometry) -> Window:
        """The windows of a geometry."""
        kernel, stride, padding, dilation = map(
            list, (geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
        )
        return cls(kernel, stride, padding, dilation, geometry.groups, list(geometry.patch))

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments, in the schema's order."""
        return self.kernel, self.stride, self.padding, self.dilation, self.groups, self.patch

    @property
    def named(self) -> dict[str, Any]:
        """The arguments by name, in that order."""
        return dict(zip(self.__dataclass_fields__, self.args, strict=True))

    def geometry(self, channels: int, size: Ints) -> ConvGeometry:
        """The geometry on an input of so many channels and of (height, width) ``size``; one filter a group."""
        return window_geometry(channels, size, self.args)


@dataclass(frozen=True)
class WindowCall(OpCall):
    """What the calls of such operators have in common."""

    @property
    def window(self) -> Window:
        """The windows that it reads."""
        return Window(*(getattr(self, name) for name in Window.__dataclass_fields__))
