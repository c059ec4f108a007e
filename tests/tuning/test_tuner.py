"""A tuned network must compute the same, and must not be measured again."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.codegen.cpu.kernels.dense import choose_dense
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.cpu.tiling import WinogradTiling
from haste_compiler.codegen.element import FLOAT32, Element
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.tuning.device import LocalDevice
from haste_compiler.tuning.tuning import DenseWork, Measured, read_layers, write_layers


def test_measured_tilings_compute_the_same_and_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASTE_CACHE", str(tmp_path))
    model = nn.Sequential(nn.Conv2d(3, 20, 3, padding=1), nn.ReLU(), nn.Conv2d(20, 7, 1)).eval()
    x, dense = torch.randn(1, 3, 9, 11), HasteConfig(enabled=False)
    compiled = haste_compiler.compile(model, (x,), config=dense, tune=True, cache=False)
    assert torch.allclose(compiled(x), model(x), atol=1e-5)

    def again(*arguments: Any) -> None:
        raise AssertionError("measured a second time")

    monkeypatch.setattr(LocalDevice, "time", again)
    kept = haste_compiler.compile(model, (x,), config=dense, tune=True, cache=False)
    assert torch.allclose(kept(x), model(x), atol=1e-5)


def test_elements_are_told_apart_and_stored() -> None:
    geometry = ConvGeometry(64, 64, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (56, 56), (1, 1))
    layers = {}
    for element in (FLOAT32, Element("bfloat16", 2, "float32")):
        work = dataclasses.replace(DenseWork.of(geometry, 1, 4), element=element)
        layers[work] = Measured(choose_dense(geometry, 1, VectorUnit(16, 32), 1, 4, element), 1.0, 2.0, 3)
    plain, half = layers
    assert str(half) == f"{plain}, bfloat16"
    stored = json.loads(json.dumps(write_layers(layers)))
    assert read_layers(stored) == layers
    # As they were stored before other elements than float32 were known.
    old = stored[0]
    assert isinstance(next(iter(layers.values())).tiling, WinogradTiling)
    for each in (old, old["tiling"]["tile"], old["tiling"]["direct"]["tile"]):
        del each["element"]
    assert read_layers(stored) == layers
