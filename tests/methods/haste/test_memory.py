"""What HASTE's kernels for CPUs keep of the merged windows: no more for large images, to the same bits."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from tvm import tirx

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.cpu import layout
from haste_compiler.methods.haste.cpu.convolve import haste_convolve_kernel
from haste_compiler.methods.haste.cpu.group import haste_group_kernel
from haste_compiler.methods.haste.cpu.layout import kept_images
from haste_compiler.methods.haste.cpu.reduction import Reduction
from haste_compiler.methods.haste.cpu.tiling import choose_haste_tiling
from tests.codegen.examples import several
from tests.codegen.kernels import HasteOutput
from tests.codegen.strategies import geometries
from tests.methods.haste.networks import redundant_images
from tests.methods.haste.test_kernels import CORNERS, Example, haste_examples, run

UNIT = VectorUnit(16, 32)
THREADS = 2
MIB = 1 << 20


def square(side: int, channels: int = 64, patch: int = 8) -> ConvGeometry:
    return ConvGeometry(channels, channels, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (side, side), (patch, patch))


def kernels(geometry: ConvGeometry, batch: int) -> Mapping[str, tirx.PrimFunc]:
    tiling, reduction = choose_haste_tiling(geometry, batch, UNIT, THREADS), Reduction("projection", "flat")
    return {
        "group": haste_group_kernel(
            "group", geometry, batch, UNIT.lanes, reduction=reduction, planes=8, kept=tiling.kept
        ),
        "convolve": haste_convolve_kernel("convolve", geometry, batch, tiling, reduction=reduction),
    }


def sizes(kernel: tirx.PrimFunc) -> dict[str, int]:
    """Bytes of its arguments, by name; all have elements of four."""
    return {buffer.name: 4 * math.prod(int(n) for n in buffer.shape) for buffer in kernel.params}


def scratch(kernel: tirx.PrimFunc) -> int:
    """Bytes of the buffers that its tasks allocate."""
    found = re.findall(r"T\.alloc_buffer\(\((\d+),\)", kernel.script())
    assert found
    return 4 * sum(map(int, found))


@pytest.mark.parametrize(("side", "batch"), [(1500, 1), (4000, 1), (224, 16)])
def test_large_images_and_batches_keep_lists_only(side: int, batch: int) -> None:
    for kernel in kernels(square(side), batch).values():
        arguments = sizes(kernel)
        image = arguments.pop("x")
        arguments.pop("y", None)
        assert image == 4 * 64 * side * side * batch
        assert "windows" not in arguments
        assert sum(arguments.values()) < 0.08 * image
        # A thread has one patch's.
        assert scratch(kernel) < MIB


def test_windows_that_fit_are_kept() -> None:
    for side, batch in ((56, 1), (112, 4)):
        group, convolve = kernels(square(side), batch).values()
        assert sizes(group)["windows"] == sizes(convolve)["windows"] <= 64 * MIB
        assert "x" not in sizes(convolve)


def test_a_few_large_patches_are_kept() -> None:
    # A thread that made its patch's again would take as much.
    assert kept_images(square(1500, patch=750), UNIT.lanes, THREADS) == 2
    assert kept_images(square(1500, patch=150), UNIT.lanes, THREADS) == 0


def assert_same(mine: HasteOutput, other: HasteOutput) -> None:
    for name, value in vars(mine).items():
        torch.testing.assert_close(value, getattr(other, name), rtol=0, atol=0, equal_nan=True)


@settings(max_examples=1)
@given(several(haste_examples(geometries(channels=24, filters=40, side=12)), 3))
def test_windows_made_again_give_the_same_bits(examples: list[Example]) -> None:
    for example in examples:
        assert_same(run(replace(example, kept=None)).mine, run(replace(example, kept=0)).mine)


@pytest.mark.parametrize("example", CORNERS[4:7])
def test_corners_made_again(example: Example) -> None:
    assert_same(run(example).mine, run(replace(example, kept=0)).mine)


@pytest.mark.slow
@settings(max_examples=200)
@given(haste_examples(geometries(channels=40, filters=70, side=20)))
def test_windows_made_again_give_the_same_bits_more(example: Example) -> None:
    assert_same(run(replace(example, kept=None)).mine, run(replace(example, kept=0)).mine)


class _Shared(nn.Module):
    """Two convolutions that share a grouping, one with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(16, 20, 3, padding=1)
        self.one, self.two = nn.Conv2d(20, 20, 3, padding=1), nn.Conv2d(20, 33, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        return torch.cat([(x + self.one(x)).relu(), self.two(x)], 1)


def test_a_network_keeps_so_much_in_calls_of_any_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = _Shared().eval(), redundant_images(4, 16, 24, 24)
    config = HasteConfig(cost_model=False, winograd=0, patch_size=6, min_channels=17)
    static = [haste_compiler.compile(model, x[:batch], config=config, threads=1) for batch in (2, 4)]
    # 16 patches of 20 channels, 10 sums and a mask, 64 pixels each: two images' windows are kept, nobody's of four.
    monkeypatch.setattr(layout, "_MOST_KEPT_BYTES", 2 * 16 * 31 * 64 * 4)
    monkeypatch.setenv("HASTE_CACHE", str(tmp_path))
    network = haste_compiler.compile(model, x[:2], config=config, threads=1, dynamic=True)
    for whole, batch in zip(static, (2, 4), strict=True):
        (y, stats), (expected, statistics) = (each.run_with_stats(x[:batch]) for each in (network, whole))
        assert torch.equal(y, expected)
        assert any(layer.counts[..., 1].any() for layer in stats.values())
        for name, layer in stats.items():
            np.testing.assert_array_equal(layer.counts, statistics[name].counts)
            np.testing.assert_array_equal(layer.bound, statistics[name].bound)
