"""What is timed is the same layer by all kernels, and the same network."""

import torch

from benchmarks import ternary
from haste_compiler.graph.geometry import row_geometry
from haste_compiler.methods.quantized.ternary import ternary_filters
from haste_compiler.prom.ternary import ternarized


def test_layers_are_ternary_and_timed_in_turns() -> None:
    assert ternary_filters(ternarized(torch.randn(5, 9, 1, 1))) is not None
    calls = ternary.kernels(row_geometry(12, 9, 20), "llvm")
    times = ternary.alone(calls, rounds=2)
    assert set(times) == set(ternary.KERNELS) and all(len(own) == 2 and min(own) > 0 for own in times.values())
