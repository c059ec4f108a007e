"""Ternary weights beside weights of 8 bits, in 1×1 layers and whole networks: `python -m benchmarks.ternary`.

The network is MobileNetV2 with random weights, those of 1×1 convolutions ternary without training: times are the same.
"""

import argparse
import copy
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import tvm
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import haste_compiler
from benchmarks.comparison import relative_error
from benchmarks.short_calls import Call, Times, in_turns
from haste_compiler import QuantizedConfig
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.target import machine_of, parse_target
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.quantized.algorithm import Algorithm
from haste_compiler.methods.quantized.cpu.direct import direct_kernel, pack_direct
from haste_compiler.methods.quantized.cpu.direct_tiling import choose_direct
from haste_compiler.methods.quantized.cpu.units import unit_for
from haste_compiler.methods.quantized.weights import filters_for
from haste_compiler.prom.ternary import ternarized
from haste_compiler.runtime.threads import with_threads
from haste_compiler.validation.timing import no_garbage_collection
from tests import zoo

KERNELS = {"8 bits": Algorithm(0), "inputs of 7": Algorithm(0, 7), "ternary": Algorithm(0, 8, True)}
"""What multiplies a 1×1 convolution."""

_SMALL = 64
"""Of images with fewer pixels across the first convolution computes every pixel."""


@dataclass(frozen=True)
class Network:
    """MobileNetV2 with 1×1 convolutions of weights as they were, and of ternary ones."""

    plain: nn.Module
    ternary: nn.Module
    x: Tensor


def network(side: int) -> Network:
    """The network for images of so many pixels; its first convolution doesn't halve small ones."""
    plain = zoo.build("mobilenet_v2", size=side)
    first = next(layer for layer in plain.modules() if isinstance(layer, nn.Conv2d))
    if side < _SMALL:
        first.stride = (1, 1)
    ternary = copy.deepcopy(plain)
    with torch.no_grad():
        for layer in ternary.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
                layer.weight.copy_(ternarized(layer.weight))
    return Network(plain, ternary, zoo.example_input("mobilenet_v2", size=side))


def pointwise(network: Network) -> list[ConvGeometry]:
    """The geometries of its 1×1 convolutions, in order."""
    compiled = haste_compiler.compile(network.plain, (network.x,))
    geometries = [layer.geometry for layer in compiled.layers if layer.kind == "conv"]
    return [each for each in geometries if each is not None and each.taps == 1]


def alone(calls: Mapping[str, Call], rounds: int) -> Times:
    """Call each in every round, in turns, on one thread, after a call that isn't timed."""

    def turns() -> Times:
        with no_garbage_collection():
            return in_turns(calls, rounds, lambda call: call())

    return with_threads(1, turns)


def kernels(geometry: ConvGeometry, target: str) -> dict[str, Call]:
    """A convolution by each of ``KERNELS``."""
    x = torch.randn(1, *geometry.input_size, geometry.in_channels).relu()
    weight = ternarized(torch.randn(geometry.out_channels, geometry.in_channels, 1, 1))
    y = torch.empty(1, *geometry.output_size, geometry.out_channels)
    return {name: _kernel(geometry, algorithm, target, (x, weight, y)) for name, algorithm in KERNELS.items()}


def _kernel(geometry: ConvGeometry, algorithm: Algorithm, target: str, tensors: tuple[Tensor, Tensor, Tensor]) -> Call:
    machine, (x, weight, y) = machine_of(parse_target(target), 1), tensors
    assert isinstance(machine, Cpu)
    unit = unit_for(machine.target, algorithm.bits, algorithm.ternary)
    _, tiling = choose_direct(geometry, 1, unit, machine.unit, 1)
    filters, scale = (each.numpy() for each in filters_for(weight, geometry, algorithm))
    packed = pack_direct(filters, scale, None, geometry, tiling, unit, nonnegative=True)
    kernel = direct_kernel("conv", geometry, 1, tiling, unit, nonnegative=True)
    with machine.pass_context():
        code = tvm.compile(tvm.IRModule({"conv": kernel}), target=machine.target)["conv"]
    arguments = [tvm.runtime.tensor(np.ascontiguousarray(each)) for each in (x.numpy(), *packed, y.numpy())]
    return lambda: code(*arguments)


def networks(network: Network, target: str) -> tuple[dict[str, Call], dict[str, float]]:
    """The network in float32 and in integers, and the relative errors (2-norm) of the outputs."""
    configs = {
        "float32": (network.plain, None),
        "8 bits": (network.plain, QuantizedConfig(bits=8, max_error=None)),
        "inputs of 7": (network.plain, QuantizedConfig(max_error=None)),
        "ternary": (network.ternary, QuantizedConfig(max_error=None)),
    }
    calls: dict[str, Call] = {}
    errors = {}
    for name, (model, config) in configs.items():
        made = haste_compiler.compile(model, (network.x,), config=config, target=target, threads=1)
        calls[name] = partial(made, network.x)
        errors[name] = relative_error(made(network.x), model(network.x))
    return calls, errors


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of layers, and one of the whole network."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ternary", description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 224])
    parser.add_argument("--target", default="llvm")
    parser.add_argument("--rounds", type=int, default=12)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(width=140)
    with torch.inference_mode():
        for side in given.sides:
            made = network(side)
            console.print(_layers(pointwise(made), given.target, given.rounds, f"{side}×{side}, 1×1 convolutions"))
            calls, errors = networks(made, given.target)
            console.print(_whole(alone(calls, given.rounds), errors, f"{side}×{side}, the whole network"))


def _layers(geometries: Sequence[ConvGeometry], target: str, rounds: int, title: str) -> Table:
    columns = (*(f"{name} µs" for name in KERNELS), "8 bits ÷ ternary", "10⁹ products/s")
    table = Table("layer", "times", *columns, title=f"{title}: best (median)")
    total: dict[str, tuple[float, float]] = dict.fromkeys(KERNELS, (0.0, 0.0))
    for geometry in dict.fromkeys(geometries):
        count = geometries.count(geometry)
        times = alone(kernels(geometry, target), rounds)
        found = {name: (min(own), statistics.median(own)) for name, own in times.items()}
        for name, (best, middle) in found.items():
            total[name] = (total[name][0] + count * best, total[name][1] + count * middle)
        height, width = geometry.output_size
        name = f"{geometry.in_channels} → {geometry.out_channels}, {height}×{width}"
        rate = geometry.dense_macs / found["ternary"][0] / 1e9
        table.add_row(name, str(count), *_cells(found), f"{rate:.0f}")
    table.add_row("all", str(len(geometries)), *_cells(total), "")
    return table


def _cells(found: Mapping[str, tuple[float, float]]) -> list[str]:
    ratio = [plain / ternary for plain, ternary in zip(found["8 bits"], found["ternary"], strict=True)]
    return [
        *(f"{1e6 * best:.1f} ({1e6 * middle:.1f})" for best, middle in found.values()),
        f"{ratio[0]:.2f} ({ratio[1]:.2f})",
    ]


def _whole(times: Times, errors: Mapping[str, float], title: str) -> Table:
    table = Table("", "ms", "÷ ternary", "error", title=f"{title}: best (median)")
    ternary = times["ternary"]
    for name, own in times.items():
        ratio = f"{min(own) / min(ternary):.2f} ({statistics.median(own) / statistics.median(ternary):.2f})"
        table.add_row(name, f"{1e3 * min(own):.2f} ({1e3 * statistics.median(own):.2f})", ratio, f"{errors[name]:.2%}")
    return table


if __name__ == "__main__":
    main()
