"""Time of one call with one image: of layers, and of whole networks in turns."""

from __future__ import annotations

import statistics
from typing import Any

from torch.utils._pytree import tree_map

from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.search.images import Images
from haste_compiler.validation.timing import timed

_PROFILES = 5
_ROUNDS = 25


class Clock:
    """Measures calls with one image.

    Args:
        dense: the dense compile, which is the yardstick.
        images: the first one is timed.
    """

    def __init__(self, dense: CompiledModule, images: Images) -> None:
        self._call: tuple[Any, ...] = tree_map(lambda leaf: leaf[:1].clone(), images.calls[0])
        self._dense = dense
        self.prepare(dense)
        self.layers = self.profile(self._dense)
        self.dense = statistics.median(self._seconds(self._dense) for _ in range(_ROUNDS)) * 1e3
        """Milliseconds of the dense network."""

    def prepare(self, compiled: CompiledModule) -> None:
        """Compile for the call."""
        compiled.prepare(*self._call)

    def profile(self, compiled: CompiledModule) -> dict[str, float]:
        """Milliseconds by layer: the least of a few calls."""
        least: dict[str, float] = {}
        for _ in range(_PROFILES):
            for name, seconds in compiled.profile(*self._call).items():
                least[name] = min(least.get(name, seconds * 1e3), seconds * 1e3)
        return least

    def latency(self, compiled: CompiledModule) -> float:
        """Milliseconds of a call: ``dense`` times the median ratio to the dense network, timed in turns with it."""
        self.prepare(compiled)
        ratios = []
        for _ in range(_ROUNDS):
            dense = self._seconds(self._dense)
            ratios.append(self._seconds(compiled) / dense)
        return statistics.median(ratios) * self.dense

    def _seconds(self, compiled: CompiledModule) -> float:
        return timed(lambda: compiled(*self._call))
