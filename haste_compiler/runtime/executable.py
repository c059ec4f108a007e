"""One network compiled for one input signature: machine code, packed weights, and how to call it."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import tvm
from torch import Tensor
from torch.utils.dlpack import from_dlpack
from tvm import relax

from haste_compiler.codegen.cpu.haste_group import Sampling, sampling
from haste_compiler.codegen.lower import HasteGroup, Lowered
from haste_compiler.haste.macs import MacCount, count_macs
from haste_compiler.haste.settings import Settings
from haste_compiler.runtime.stats import LayerStats
from haste_compiler.runtime.threads import use_threads


class Executable:
    """Machine code for one input signature.

    Args:
        code: what ``codegen.build`` returned.
        lowered: the network it was made from.
        threads: threads of TVM's pool that work on it.
    """

    def __init__(self, code: Any, lowered: Lowered, threads: int) -> None:
        self.groups: list[HasteGroup] = lowered.groups
        self._outputs = lowered.outputs
        self._kernels = lowered.kernels
        self._threads = threads
        self._constants = [tvm.runtime.tensor(constant) for constant in lowered.constants]
        self._constant_addresses = {from_dlpack(constant).data_ptr() for constant in self._constants}
        self._settings = [np.array(group.settings, np.float32) for group in self.groups]
        self._machine = relax.VirtualMachine(code, tvm.cpu())
        self._main = self._machine["main"]
        # The machine keeps a call's values in itself: calls take turns.
        self._turn = threading.RLock()
        self._arguments: list[Any] = []
        self._refresh()

    @property
    def constant_bytes(self) -> int:
        """Size of the packed weights and tables."""
        return sum(math.prod(constant.shape) * 4 for constant in self._constants)

    def settings(self, index: int) -> Settings:
        """What grouping ``index`` uses now."""
        planes, tolerance, flat = (float(number) for number in self._settings[index])
        return Settings(int(planes), tolerance, flat)

    def steer(self, index: int, settings: Settings) -> None:
        """Give grouping ``index`` other settings, from the next call on."""
        self._settings[index] = np.array(settings, np.float32)
        self._refresh()

    def _refresh(self) -> None:
        # A new list: a call that is under way keeps the old one.
        self._arguments = [*(tvm.runtime.tensor(values) for values in self._settings), *self._constants]

    def run(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs, and the statistics of each grouping; ``inputs`` are contiguous CPU tensors."""
        use_threads(self._threads)
        with self._turn:
            results = self._main(*(tvm.runtime.from_dlpack(tensor) for tensor in inputs), *self._arguments)
        tensors = [from_dlpack(result) for result in results]
        # An output may be an input or a constant as it is: the caller gets a copy to do with what he likes.
        known = {tensor.data_ptr() for tensor in inputs} | self._constant_addresses
        tensors = [tensor.clone() if tensor.data_ptr() in known else tensor for tensor in tensors]
        return tensors[: self._outputs], tensors[self._outputs :]

    def run_with_stats(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], dict[str, LayerStats]]:
        """Run once and return the outputs and what every HASTE layer did."""
        outputs, numbers = self.run(inputs)
        stats = {}
        found = iter(numbers)
        for index, group in enumerate(self.groups):
            settings = self.settings(index)
            counts, bound = next(found).numpy(), next(found).numpy()
            gave_up = group.gated and not int(next(found))
            for position, (name, geometry) in enumerate(zip(group.layers, group.geometries, strict=True)):
                shape = (group.images, *geometry.patch_grid, geometry.groups)
                shaped = counts.reshape(*shape, counts.shape[-1]).copy()
                macs = count_macs(
                    geometry,
                    torch.from_numpy(shaped),
                    settings.num_hyperplanes,
                    group.merge,
                    math.isfinite(settings.tolerance),
                    group.skip,
                    group.nonzeros,
                )
                if gave_up:
                    macs = _of_samples(macs, sampling(geometry, group.images))
                if position:
                    macs = _without_grouping(macs)
                scaled = bound.reshape(shape) * np.float32(math.sqrt(geometry.taps))
                stats[name] = LayerStats(name, geometry, group.images, shaped, scaled, macs, gave_up)
        return outputs, stats

    def profile(self, inputs: Sequence[Tensor]) -> dict[str, float]:
        """Seconds spent for each layer in one call; kernels of no layer go under their own name."""
        use_threads(self._threads)
        layers: dict[str, list[str]] = defaultdict(list)
        for symbol, layer in self._kernels:
            layers[symbol].append(layer)
        seen: dict[str, int] = defaultdict(int)
        seconds: dict[str, float] = defaultdict(float)
        start = 0.0

        def watch(function: Any, symbol: str, before: bool, result: Any, *args: Any) -> int:
            nonlocal start
            if before:
                start = time.perf_counter()
                return 0
            elapsed, name = time.perf_counter() - start, symbol
            if symbol in layers:
                name = layers[symbol][seen[symbol] % len(layers[symbol])]
                seen[symbol] += 1
            if not symbol.startswith("vm.builtin"):
                seconds[name] += elapsed
            return 0

        with self._turn:
            self._machine.set_instrument(watch)
            try:
                self.run(inputs)
            finally:
                self._machine.set_instrument(lambda *args: 0)
        return dict(seconds)


def _of_samples(macs: MacCount, sampled: Sampling) -> MacCount:
    """The count of a layer that was given up after some of its patches were hashed."""
    return dataclasses.replace(
        macs,
        hashing=macs.hashing * sampled.samples // sampled.tasks,
        centring=macs.centring * sampled.samples // sampled.tasks,
        norms=macs.norms * sampled.samples // sampled.tasks,
    )


def _without_grouping(macs: MacCount) -> MacCount:
    """The count of a layer whose grouping another layer has paid for."""
    return dataclasses.replace(macs, hashing=0, centring=0, norms=0, coefficients=0, merge_inputs=0)
