"""A layer that is much slower than PyTorch's stays slow if nobody compares them."""

import torch
from torch import nn

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.codegen.build import build
from haste_compiler.codegen.cpu.kernels.conv2d import conv_work
from haste_compiler.codegen.cpu.kernels.dense import DenseTiling
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.cpu.tiling import choose_tiling, register_tiles
from haste_compiler.codegen.target import machine_of, parse_target
from haste_compiler.codegen.walk import lower
from haste_compiler.graph.capture import capture
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.methods.registry import rules_for
from haste_compiler.runtime.executable import Executable
from haste_compiler.tuning.handing_back import slower_layers


def test_a_slow_layer_is_found() -> None:
    """A convolution of one sum at a time takes many times PyTorch's time."""
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()).eval()
    x = torch.randn(1, 64, 64, 64)
    machine = machine_of(parse_target("llvm"))
    assert isinstance(machine, Cpu)
    unit = machine.unit

    def worst(geometry: ConvGeometry, batch: int, winograd: int) -> DenseTiling:
        work = conv_work(geometry, batch)
        tiles = register_tiles(work.rows, work.columns, work.channels, unit, work.element)
        tile = min(tiles, key=lambda tile: tile.pixels * tile.vectors)
        return choose_tiling(work, unit, 1, tile)

    gm = run_passes(capture(model, (x,)), HasteConfig(enabled=False))
    lowered = lower(gm, machine.with_tilings(worst), rules_for(machine))
    executable = Executable(build(lowered, machine), lowered, 1, machine.missing())
    assert slower_layers(executable, gm, [x], 1) == ["0"]


def test_a_tuned_network_is_right() -> None:
    """Whatever is handed back, or nothing: the values are the model's, and other shapes are compiled alike."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 1)).eval()
    compiled = haste_compiler.compile(model, config=HasteConfig(enabled=False), tune=True, threads=1)
    for size in (12, 15):
        x = torch.randn(1, 3, size, size)
        torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-5)
