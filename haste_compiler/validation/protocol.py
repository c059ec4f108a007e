"""What the validator needs to know of a compiled network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.macs import MacCount
from haste_compiler.methods.layers import ConvLayer


class Stats(Protocol):
    """What one HASTE layer did on one batch."""

    @property
    def geometry(self) -> ConvGeometry:
        """The convolution's shape."""

    @property
    def images(self) -> int:
        """Images in the batch, N."""

    @property
    def counts(self) -> np.ndarray[Any, Any]:
        """Integers (N, PH, PW, G, 6): singles, groups, members, zeros, flats, channels merged over both rounds."""

    @property
    def bound(self) -> np.ndarray[Any, Any]:
        """(N, PH, PW, G), bound on the 2-norm of the output error of each patch and convolution group."""

    @property
    def macs(self) -> MacCount:
        """Multiply-adds on the whole batch."""


class Compiled(Protocol):
    """A compiled network."""

    def __call__(self, *inputs: Any) -> Any:
        """What the model returns for these inputs."""

    @property
    def dense(self) -> Compiled:
        """The same network compiled without HASTE layers; itself if it has none."""

    @property
    def layers(self) -> Sequence[ConvLayer]:
        """Every convolution."""

    def stats(self, *inputs: Any) -> Mapping[str, Stats]:
        """What each HASTE layer does on these inputs."""
