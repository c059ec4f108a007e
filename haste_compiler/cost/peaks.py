"""What this machine can do at most, measured: multiply-adds in registers, and reading what no core's cache holds."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.target import Target
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.target import VectorUnit, vector_unit
from haste_compiler.codegen.target import machine_of
from haste_compiler.runtime.huge_pages import place
from haste_compiler.runtime.threads import with_threads

_SUMS = 12
"""Accumulators: four cycles of latency, two units, and some to spare."""

_STEPS = 1_000_000
_READ_FLOATS = 1 << 26
"""256 MiB: some network's filters several times over, so no second-level cache has a part in it."""

_ROUNDS = 10


@dataclass(frozen=True)
class Peaks:
    """The machine's limits with one number of threads.

    Attributes:
        threads: that were used.
        flops: floating-point operations a second, a multiply-add being two.
        bandwidth: bytes read a second from beyond the second-level cache.
        near_bytes: that the second-level caches of the cores hold, which cost nothing here.
    """

    threads: int
    flops: float
    bandwidth: float
    near_bytes: float = 0.0

    def seconds(self, flops: float, size: float) -> float:
        """The least time for so many operations and bytes: the roofline of Williams et al., CACM 52(4), 2009."""
        return max(flops / self.flops, size / self.bandwidth)

    def bound(self, flops: float, size: float) -> str:
        """What limits it: "compute" or "memory"."""
        return "compute" if flops / self.flops >= size / self.bandwidth else "memory"


def measure_peaks(target: Target, threads: int) -> Peaks:
    """The best of some rounds of two kernels, which take about two seconds."""
    unit = vector_unit(target)
    with machine_of(target).pass_context():
        code = tvm.compile(
            tvm.IRModule({"fma": fma_kernel(unit, threads), "read": read_kernel(unit, threads)}), target=target
        )
    out = tvm.runtime.tensor(np.zeros(threads * unit.lanes, np.float32))
    memory = tvm.runtime.from_dlpack(place([np.ones(_READ_FLOATS, np.float32)])[0])
    flops = 2.0 * threads * _STEPS * _SUMS * unit.lanes / _best(threads, lambda: code["fma"](out))
    bandwidth = 4.0 * _READ_FLOATS / _best(threads, lambda: code["read"](memory, out))
    return Peaks(threads, flops, bandwidth, float(threads * unit.l2_bytes))


def _best(threads: int, call: Callable[[], Any]) -> float:
    def times() -> list[float]:
        call()
        taken = []
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
        return taken

    return min(with_threads(threads, times))


def fma_kernel(unit: VectorUnit, threads: int, steps: int = _STEPS) -> tirx.PrimFunc:
    """The kernel (y,): ``steps`` times ``s = s * a + b`` for each of some accumulators in registers; y is their sum."""

    def body(y: Any) -> None:
        with T.parallel(0, threads) as thread:
            sums = [emit.Register(unit.lanes, float(i)) for i in range(_SUMS)]
            # Two vectors that the compiler doesn't know.
            start = emit.bind(thread * unit.lanes)
            factor = T.bind(emit.load(y, start, unit.lanes) * emit.splat(1e-6, unit.lanes))
            with T.serial(0, steps):
                for register in sums:
                    register.set(register.get() * factor + factor)
            _store_total(sums, y, start, unit.lanes)

    return emit.kernel("fma", [("y", (threads * unit.lanes,), "float32")], body)


def read_kernel(unit: VectorUnit, threads: int, floats: int = _READ_FLOATS) -> tirx.PrimFunc:
    """The kernel (x, y): every thread adds up its part of x, which is divisible among them; y is a vector of each."""
    step = 8 * unit.lanes
    part = floats // threads // step * step

    def body(x: Any, y: Any) -> None:
        with T.parallel(0, threads) as thread:
            sums = [emit.Register(unit.lanes, 0.0) for _ in range(8)]
            with T.serial(0, part // step) as i:
                at = emit.bind(thread * part + i * step)
                for v, register in enumerate(sums):
                    register.add(emit.load(x, at + v * unit.lanes, unit.lanes))
            _store_total(sums, y, emit.bind(thread * unit.lanes), unit.lanes)

    arguments = [("x", (floats,), "float32"), ("y", (threads * unit.lanes,), "float32")]
    return emit.kernel("read", arguments, body)


def _store_total(sums: list[emit.Register], y: Any, start: Any, lanes: int) -> None:
    total = sums[0].get()
    for register in sums[1:]:
        total = total + register.get()
    emit.store(y, start, total, lanes)
