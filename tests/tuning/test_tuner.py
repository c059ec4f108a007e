"""A tuned network must compute the same, and must not be measured again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.tuning.device import LocalDevice


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
