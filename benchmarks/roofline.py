"""How far each layer of our dense compile is from what the machine can do: a roofline for every layer."""

import dataclasses
import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import haste_compiler
from benchmarks import cases
from benchmarks.report import plain
from haste_compiler import HasteConfig
from haste_compiler.codegen.cpu.kernels.dense import choose_dense
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.cpu.tiling import WinogradTiling
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.target import parse_target
from haste_compiler.cost.peaks import Peaks, measure_peaks
from haste_compiler.graph.geometry import ConvGeometry


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer's work and its time in one call.

    Attributes:
        name: of the layer; of the kernel, where it belongs to none.
        kind: "conv", "winograd" (a convolution by Winograd's algorithm), "depthwise" or "linear"; empty for everything
            else.
        macs: multiply-adds as the layer is written; Winograd's algorithm does fewer.
        size: bytes that must come from beyond the second-level caches: filters, which the layers before have pushed
            out; input and output too, where they don't fit. NaN where it isn't known.
        milliseconds: the least over the rounds, as the peaks are the best of several.
    """

    name: str
    kind: str
    macs: int
    size: float
    milliseconds: float


@dataclasses.dataclass(frozen=True)
class Roofline:
    """All layers of one network with one batch and number of threads, in the order in which they run."""

    case: str
    batch: int
    peaks: Peaks
    layers: list[Layer]

    def share(self, layer: Layer) -> float:
        """The least time that a layer could take over the time that it takes; NaN where its bytes aren't known.

        It can be more than 1 where Winograd's algorithm saves multiply-adds.
        """
        if math.isnan(layer.size):
            return math.nan
        return 1e3 * self.peaks.seconds(2 * layer.macs, layer.size) / layer.milliseconds

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        return {
            "case": self.case,
            "batch": self.batch,
            "peaks": dataclasses.asdict(self.peaks),
            "layers": [plain(dataclasses.asdict(layer)) for layer in self.layers],
        }


def measure_layers(case: str, batch: int, peaks: Peaks, rounds: int) -> Roofline:
    """Compile a case dense for so many threads as the peaks are of, and profile it.

    Raises:
        AbsentError: the case needs what is not there.
    """
    built = cases.CASES[case](batch)
    x, threads = built.inputs[0], peaks.threads
    torch.set_num_threads(threads)
    compiled = haste_compiler.compile(built.model, (x,), config=HasteConfig(enabled=False), threads=threads)
    compiled(x)
    profiles = [compiled.profile(x) for _ in range(rounds)]
    work = {
        layer.name: convolution(layer.geometry, batch, compiled.target, threads)
        for layer in compiled.layers
        if layer.geometry is not None
    }
    linears = {name: module for name, module in built.model.named_modules() if isinstance(module, nn.Linear)}
    work |= {name: linear(module, batch) for name, module in linears.items()}
    layers = []
    for name in profiles[0]:
        kind, macs, size = work.get(name, ("", 0, math.nan))
        layers.append(Layer(name, kind, macs, size, 1e3 * min(profile[name] for profile in profiles)))
    return Roofline(case, batch, peaks, layers)


def convolution(geometry: ConvGeometry, batch: int, target: Any, threads: int) -> tuple[str, int, float]:
    """Kind, multiply-adds and bytes of a dense convolution."""
    unit = vector_unit(target)
    tiling = choose_dense(geometry, batch, unit, threads, HasteConfig().winograd)
    weights = geometry.out_channels * (geometry.in_channels // geometry.groups * geometry.taps + 1)
    images = geometry.in_channels * math.prod(geometry.input_size)
    images += geometry.out_channels * math.prod(geometry.output_size)
    kind = "depthwise" if geometry.is_depthwise else "winograd" if isinstance(tiling, WinogradTiling) else "conv"
    far = float(FLOAT32.bytes) * batch * images > threads * unit.l2_bytes
    return kind, batch * geometry.dense_macs, float(FLOAT32.bytes) * (weights + far * batch * images)


def linear(module: nn.Linear, batch: int) -> tuple[str, int, float]:
    """Kind, multiply-adds and bytes of a linear layer on vectors, which the cores' caches hold."""
    weights = module.out_features * module.in_features
    return "linear", batch * weights, float(FLOAT32.bytes) * (weights + module.out_features)


def study(
    names: Sequence[str], batches: Sequence[int], threads: Sequence[int], rounds: int, end: float = math.inf
) -> tuple[str, list[dict[str, Any]]]:
    """Every network, batch and number of threads, until ``time.monotonic()`` is past ``end``.

    Returns:
        The tables in Markdown, and the numbers.
    """
    tables, stored = [], []
    peaks = [measure_peaks(parse_target("llvm"), count) for count in threads]
    for name, batch, peak in itertools.product(names, batches, peaks):
        try:
            if time.monotonic() > end:
                raise cases.AbsentError("no time was left")
            found = measure_layers(name, batch, peak, rounds)
        except cases.AbsentError as error:
            tables.append(f"{_title(name, batch, peak)}\n\nNot measured: {error}\n")
        else:
            tables.append(markdown(found))
            stored.append(found.to_dict())
    return "\n".join(tables), stored


def _title(case: str, batch: int, peaks: Peaks) -> str:
    return f"### {cases.TITLES[case]}; batch {batch}, threads: {peaks.threads}"


def markdown(found: Roofline) -> str:
    """A table with a row for each layer, and what they come to."""
    peaks = found.peaks
    lines = [
        _title(found.case, found.batch, peaks),
        "",
        f"Peaks: {peaks.flops / 1e9:.0f} GFLOP/s in registers, {peaks.bandwidth / 1e9:.1f} GB/s read from beyond the"
        " second-level cache (far: filters, and images that don't fit it).",
        "",
        "| layer | kind | million MACs | far MB | ms | GFLOP/s | GB/s | % of the roof | bound by |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for layer in found.layers:
        lines.append(_row(found, layer))
    known = [layer for layer in found.layers if not math.isnan(layer.size)]
    time, least = (sum(layer.milliseconds for layer in part) for part in (found.layers, known))
    roof = sum(1e3 * peaks.seconds(2 * layer.macs, layer.size) for layer in known)
    macs = sum(layer.macs for layer in known)
    lines += [
        "",
        f"In all {time:.2f} ms, {least:.2f} ms of it in these layers, which could take {roof:.2f} ms"
        f" ({roof / least:.0%} of the roof, {2e-6 * macs / least:.0f} GFLOP/s).",
        "",
    ]
    return "\n".join(lines)


def _row(found: Roofline, layer: Layer) -> str:
    if math.isnan(layer.size):
        return f"| {layer.name} | | | | {layer.milliseconds:.3f} | | | | |"
    rates = (2e-6 * layer.macs / layer.milliseconds, 1e-6 * layer.size / layer.milliseconds)
    bound = found.peaks.bound(2 * layer.macs, layer.size)
    return (
        f"| {layer.name} | {layer.kind} | {layer.macs / 1e6:.1f} | {layer.size / 1e6:.2f} | {layer.milliseconds:.3f}"
        f" | {rates[0]:.0f} | {rates[1]:.1f} | {100 * found.share(layer):.0f} | {bound} |"
    )
