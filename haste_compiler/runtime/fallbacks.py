"""What PyTorch runs of a compiled network, and what share of a call's time it takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from haste_compiler.fallback.call import SYMBOL
from haste_compiler.methods.explanation import FallbackChoice
from haste_compiler.runtime.executable import Executable


def explain_fallbacks(
    executable: Executable, shapes: Sequence[Sequence[int]], dtypes: Sequence[str]
) -> tuple[FallbackChoice, ...]:
    """What PyTorch runs, timed in one call on zeros.

    Args:
        executable: the network.
        shapes: of its inputs.
        dtypes: of the same, by NumPy's names.

    Returns:
        Each in the order in which they are called; without shares where the network can't run here, or not on zeros.
    """
    if not executable.fallbacks:
        return ()
    shares: Sequence[float | None] = [None] * len(executable.fallbacks)
    # Zeros may be no input that the network takes: what is left to PyTorch is known all the same.
    with contextlib.suppress(Exception):
        zeros = [np.zeros(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        # The first call makes what PyTorch keeps for the next ones.
        executable.run(zeros, convert=_as_it_is)
        shares = _shares(executable, zeros)
    return tuple(map(FallbackChoice.of, executable.fallbacks, shares))


def _as_it_is(tensor: Any) -> Any:
    return tensor


def _shares(executable: Executable, inputs: Sequence[Any]) -> list[float]:
    seconds, began = [0.0] * len(executable.fallbacks), 0.0

    def see(layer: str, symbol: str, before: bool, arguments: Sequence[Any]) -> None:
        nonlocal began
        if symbol == SYMBOL and before:
            began = time.perf_counter()
        elif symbol == SYMBOL:
            seconds[int(arguments[0])] += time.perf_counter() - began

    start = time.perf_counter()
    with executable.watched(see):
        executable.run(inputs, convert=_as_it_is)
    total = time.perf_counter() - start
    return [each / total for each in seconds]
