"""What the validator needs to know of a compiled network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from haste_compiler.methods.layers import ConvLayer
from haste_compiler.methods.statistics import LayerStatistics


class Compiled(Protocol):
    """A compiled network."""

    def __call__(self, *inputs: Any) -> Any:
        """What the model returns for these inputs."""

    @property
    def dense(self) -> Compiled:
        """The same network compiled without any method; itself if none takes part."""

    @property
    def layers(self) -> Sequence[ConvLayer]:
        """Every convolution."""

    def stats(self, *inputs: Any) -> Mapping[str, LayerStatistics]:
        """What each layer of a method does on these inputs."""
