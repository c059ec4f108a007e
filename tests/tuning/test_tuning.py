"""What was measured, as a value: files that carry it, what it is refused for, patches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import haste_compiler
from haste_compiler import CompiledModule, HasteConfig, InputError, TargetError, Tuning, TuningError
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.cpu.tiling import WinogradTiling
from haste_compiler.codegen.job import Job
from haste_compiler.codegen.library import Code
from haste_compiler.codegen.target import parse_target
from haste_compiler.tuning import tune as tune_module
from haste_compiler.tuning.device import LocalDevice
from tests.codegen.cross import AARCH64
from tests.methods.haste.networks import redundant_images

CONFIG = HasteConfig(cost_model=False, num_hyperplanes=8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASTE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(10, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 3, 1)).eval()


X = redundant_images(1, 10, 16, 16)


class Scripted:
    """A device on which a kernel takes as long as a function of its job says."""

    at_once = 1

    def __init__(self, seconds: Callable[[Job, str], float]) -> None:
        self.seconds, self.jobs = seconds, list[Job]()

    def time(self, job: Job, code: Code) -> dict[str, float]:
        self.jobs.append(job)
        return {symbol: self.seconds(job, symbol) for symbol in job.kernels}


def scripted(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[Job, str], float]) -> Scripted:
    device = Scripted(seconds)
    monkeypatch.setattr(tune_module, "_device", lambda *args: device)
    return device


def test_the_fastest_is_chosen_and_carried_in_a_file(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the 3×3 layer, the last candidate; of the other, the model's own choice.
    device = scripted(monkeypatch, lambda job, symbol: 1 / (1 + int(symbol[1:])) if len(job.kernels) > 9 else 1.0)
    dense, file = HasteConfig(enabled=False), tmp_path / "tuning.json"
    tuning = haste_compiler.tune(network, X, threads=1, config=dense, save=file)
    first, second = tuning.layers.values()
    tried = len(device.jobs[0].kernels)
    assert isinstance(first.tiling, WinogradTiling) and first.tiling.size == 4
    assert (first.candidates, first.seconds, first.modelled_seconds) == (tried, 1 / tried, 1)
    work = list(tuning.layers)[1]
    assert second.tiling == Cpu(parse_target("llvm"), 1).choose_tiling(work.geometry, work.batch, work.winograd)
    loaded = Tuning.load(file)
    assert loaded.to_dict() == tuning.to_dict() and loaded.layers == tuning.layers
    assert "10 → 12, 3×3 on 16×16" in str(loaded) and "Winograd 4×4" in str(loaded)
    compiled = haste_compiler.compile(network, X, threads=1, config=dense, tune=file, cache=False)
    assert torch.allclose(compiled(X), network(X), atol=1e-4)


def test_time_is_up(network: nn.Module) -> None:
    tuning = haste_compiler.tune(network, X, threads=1, config=CONFIG, seconds=1e-9)
    assert not tuning.layers and not tuning.patches and tuning.skipped == 1
    assert "1 layers were not measured in time" in str(tuning)
    haste_compiler.compile(network, X, threads=1, config=CONFIG, tune=tuning, cache=False)


@pytest.mark.parametrize(("fast", "expected"), [((4, 4), {"0": (4, 4)}), ((8, 8), {})])
def test_the_fastest_patch(
    network: nn.Module, fast: tuple[int, int], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(job: Job, symbol: str) -> float:
        if symbol != "group":
            return 1.0
        windows = next(p for p in job.kernels["group"].params if str(p.name) == "counts")
        return 1.0 if int(windows.shape[0]) == 256 // (fast[0] * fast[1]) else 2.0

    device = scripted(monkeypatch, seconds)
    tuning = haste_compiler.tune(network, X, threads=1, config=CONFIG)
    assert tuning.patches == expected
    x = device.jobs[-1].values["x"]
    assert x.shape == (1, 16, 16, 10) and abs(float(x.mean())) < 0.1 < float(x.std())


def test_patches_are_measured_here(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    found, real = [], LocalDevice.time

    def record(self: LocalDevice, job: Job, code: Code) -> dict[str, float]:
        found.append(real(self, job, code))
        return found[-1]

    monkeypatch.setattr(LocalDevice, "time", record)
    haste_compiler.tune(network[:1], X, threads=1, config=CONFIG)  # type: ignore[index]
    assert len(found) == 3 and all(each.keys() == {"group", "convolve0"} for each in found)
    assert all(seconds > 0 for each in found for seconds in each.values())


def patch_of(compiled: CompiledModule) -> tuple[int, int]:
    geometry = compiled.layers[0].geometry
    assert geometry is not None
    return geometry.patch


def test_patches_are_taken_where_none_is_given(network: nn.Module) -> None:
    tuning = Tuning(
        parse_target("llvm"),
        1,
        settings={"haste": {"0": {"patch_size": (4, 16)}, "of another network": {"patch_size": (2, 2)}}},
    )
    tuned = haste_compiler.compile(network, X, config=CONFIG, tune=tuning, threads=1)
    config = CONFIG.replace(layers={"0": {"patch_size": (4, 16)}})
    asked = haste_compiler.compile(network, X, config=config, threads=1)
    assert torch.equal(tuned(X), asked(X)) and patch_of(tuned) == (4, 16)
    fixed = haste_compiler.compile(network, X, config=CONFIG.replace(patch_size=5), tune=tuning, threads=1)
    assert patch_of(fixed) == (5, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "something"}, r"holds no tuning: ValueError: format 'something'"),
        ({"layers": [{}]}, r"holds no tuning: KeyError: 'geometry'"),
        (
            {"versions": {"haste_compiler": "0.0.1", "tvm": "0.1"}},
            r"made by haste_compiler 0\.0\.1, tvm 0\.1, ins",
        ),
        ({"threads": 3}, r"the tuning is for threads 3, and can't be used for threads 1: tune anew"),
        ({"target": {"kind": "llvm", "mcpu": "haswell"}}, r"the tuning is for target .*haswell.*: tune anew"),
    ],
)
def test_what_does_not_fit(network: nn.Module, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "tuning.json"
    file.write_text(json.dumps({**Tuning(parse_target("llvm"), 1).to_dict(), **change}))
    with pytest.raises(TuningError, match=message):
        haste_compiler.compile(network, threads=1, tune=file)


def test_a_file_that_is_none(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(TuningError, match=r"can't be read: No such file"):
        haste_compiler.compile(network, tune=tmp_path / "absent.json")
    (tmp_path / "cut.json").write_text('{"format":')
    with pytest.raises(TuningError, match=r"holds no tuning: JSONDecodeError"):
        haste_compiler.compile(network, tune=str(tmp_path / "cut.json"))


def test_arguments_that_are_refused(network: nn.Module) -> None:
    with pytest.raises(InputError, match="seconds is 0: allowed are numbers above 0"):
        haste_compiler.tune(network, X, seconds=0)
    with pytest.raises(InputError, match="tuning needs the network's inputs"):
        haste_compiler.tune(network, None)  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="this machine has no aarch64; give tracker and key"):
        haste_compiler.tune(network, X, target=AARCH64, threads=1)
    with pytest.raises(TargetError, match="only the tilings of a CPU's kernels are measured"):
        haste_compiler.tune(network, X, target="cuda -arch=sm_90")
