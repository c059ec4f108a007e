"""The roofline: kernels that measure the machine's peaks compute what they say, layers are counted right."""

import math

import numpy as np
import pytest
import tvm
from torch import nn
from tvm import tirx

from benchmarks.roofline import Layer, Roofline, convolution, linear, markdown, measure_layers
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import machine_of, parse_target
from haste_compiler.cost.peaks import Peaks, fma_kernel, read_kernel
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.runtime.threads import with_threads

TARGET = parse_target("llvm")
LANES = vector_unit(TARGET).lanes


def built(kernel: tirx.PrimFunc) -> tvm.runtime.Module:
    name = kernel.attrs["global_symbol"]
    with machine_of(TARGET).pass_context():
        return tvm.compile(tvm.IRModule({name: kernel}), target=TARGET)[name]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_multiply_adds_are_all_done(threads: int) -> None:
    start = np.linspace(1e5, 9e5, threads * LANES).astype(np.float32)
    y = tvm.runtime.tensor(start)
    kernel = built(fma_kernel(vector_unit(TARGET), threads, steps=5))
    with_threads(threads, lambda: kernel(y))
    factor, sums = start * np.float32(1e-6), [np.full(len(start), i, np.float64) for i in range(12)]
    for _ in range(5):
        sums = [each * factor + factor for each in sums]
    np.testing.assert_allclose(y.numpy(), sum(sums), rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
def test_everything_is_read(threads: int) -> None:
    x = np.random.default_rng(0).integers(0, 100, threads * 8 * LANES * 7).astype(np.float32)
    y = tvm.runtime.tensor(np.zeros(threads * LANES, np.float32))
    kernel = built(read_kernel(vector_unit(TARGET), threads, len(x)))
    with_threads(threads, lambda: kernel(tvm.runtime.tensor(x), y))
    assert y.numpy().sum() == x.sum()


def test_the_roof_is_the_slower_of_arithmetic_and_memory() -> None:
    peaks = Peaks(1, flops=100.0, bandwidth=10.0)
    assert (peaks.seconds(200, 10), peaks.bound(200, 10)) == (2.0, "compute")
    assert (peaks.seconds(200, 40), peaks.bound(200, 40)) == (4.0, "memory")


def test_work_of_a_convolution_and_of_a_linear_layer() -> None:
    strided = ConvGeometry(8, 16, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 2, (10, 12), (8, 8))
    kind, macs, size = convolution(strided, 3, TARGET, 1)
    assert kind == "conv" and macs == 3 * 16 * 4 * 9 * 5 * 6
    assert size == 4 * (16 * 4 * 9 + 16)
    # Images that a core's cache doesn't hold.
    large = convolution(strided, 3000, TARGET, 1)
    assert large[2] == 4 * (16 * 4 * 9 + 16 + 3000 * (8 * 10 * 12 + 16 * 5 * 6))
    depthwise = ConvGeometry(16, 16, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 16, (8, 8), (8, 8))
    assert convolution(depthwise, 1, TARGET, 1) == ("depthwise", 16 * 9 * 64, 4 * (16 * 9 + 16))
    assert linear(nn.Linear(5, 7), 3) == ("linear", 3 * 35, 4 * (35 + 7))


def test_shares_of_the_roof_and_layers_of_no_known_work() -> None:
    peaks = Peaks(2, flops=1e9, bandwidth=1e9)
    conv, other = Layer("conv", "conv", 1_000_000, 1e6, 4.0), Layer("pool", "", 0, math.nan, 1.0)
    found = Roofline("resnet18", 4, peaks, [conv, other])
    assert found.share(conv) == pytest.approx(0.5) and math.isnan(found.share(other))
    text = markdown(found)
    assert "| conv | conv | 1.0 | 1.00 | 4.000 | 0 | 0.2 | 50 | compute |" in text
    assert "In all 5.00 ms, 4.00 ms of it in these layers, which could take 2.00 ms (50% of the roof" in text
    assert found.to_dict()["layers"][1]["size"] is None


def test_layers_of_a_network_are_found_and_timed() -> None:
    found = measure_layers("conv_none_duplicated", 2, Peaks(1, 1e11, 1e10), rounds=2)
    known = [layer for layer in found.layers if layer.kind]
    assert [layer.macs for layer in known] == [2 * 128 * 128 * 9 * 28 * 28]
    assert all(layer.milliseconds > 0 for layer in found.layers)
