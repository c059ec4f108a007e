"""Fitting the cost model, and keeping what was measured."""

import json
from pathlib import Path

import numpy as np
import pytest

from haste_compiler.codegen.cpu.cost import SHARED
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.target import parse_target
from haste_compiler.cost import calibration
from haste_compiler.cost.calibration import Sample, cost_model, default_model, fit, guess, phases
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.cpu import calibration as trials
from haste_compiler.methods.haste.cpu.calibration import make_input
from haste_compiler.methods.haste.cpu.cost import convolve, group
from haste_compiler.methods.haste.found import mostly_zero
from tests.cost.geometries import square

CONFIG = HasteConfig(num_hyperplanes=10, nonzeros=None)
TARGET = "llvm"
"""This machine."""


@pytest.fixture
def small_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Calibrate on two small convolutions, into an empty cache; returns its folder."""
    monkeypatch.setenv("HASTE_CACHE", str(tmp_path))
    monkeypatch.setattr(trials, "_CONVOLUTIONS", (square(16, 16, 12, 6),))
    monkeypatch.setattr(calibration, "_DENSE", (square(8, 8, 2, 2),))
    return tmp_path


def test_coefficients_are_found_again_next_to_a_few_slow_calls() -> None:
    generator, known = np.random.default_rng(0), phases()
    seconds = {kernel: {phase: generator.uniform(1, 9) * 1e-9 for phase in names} for kernel, names in known.items()}
    for phase in SHARED:
        for kernel in ("winograd", "convolve"):
            if phase in known[kernel]:
                seconds[kernel][phase] = seconds["dense"][phase]
    samples = []
    for i in range(400):
        kernel = list(known)[i % 4]
        work = {phase: generator.uniform(10, 1000) for phase in known[kernel]}
        exact = sum(seconds[kernel][phase] * units for phase, units in work.items())
        samples.append(Sample(kernel, work, exact * (3 if i % 25 == 0 else 1)))
    found = fit(samples)
    for kernel, names in known.items():
        for phase in names:
            assert found[kernel][phase] == pytest.approx(seconds[kernel][phase], rel=0.1), (kernel, phase)


def test_a_machine_is_measured_once_and_again_if_the_file_is_damaged(small_set: Path) -> None:
    calibration._models.clear()
    geometry, target = square(64, 64, 28, 7), parse_target(TARGET)
    guessed = guess(Cpu(target, 1))
    assert guessed is not None and guessed.source == "defaults of the package" and not list(small_set.iterdir())
    first = cost_model(Cpu(target, 1))
    assert guess(Cpu(target, 1)) is None
    (path,) = small_set.iterdir()
    written = path.read_text()
    assert first.source == "calibrated on this machine"
    assert 1e-6 < first.dense(geometry, 1, 0) < 1 and first.dense(geometry, 4, 0) > 2 * first.dense(geometry, 1, 0)
    calibration._models.clear()
    assert guess(Cpu(target, 1)) is None
    assert cost_model(Cpu(target, 1)).seconds == first.seconds and path.read_text() == written
    for damage in (written[: len(written) // 2], written.replace("cycles", "circles", 1)):
        path.write_text(damage)
        calibration._models.clear()
        assert cost_model(Cpu(target, 1)).seconds == json.loads(path.read_text())


def test_defaults_cover_every_vector_unit_and_phase() -> None:
    geometry = square(128, 128, 28, 7)
    for lanes in (4, 8, 16):
        model = default_model(VectorUnit(lanes, 32), 1)
        assert {kernel: tuple(phases) for kernel, phases in model.seconds.items()} == dict(phases())
        whole, none = mostly_zero(geometry, 1.0), mostly_zero(geometry, 0.05)
        dense = model.dense(geometry, 1, 0)
        assert group(model, geometry, 1, CONFIG, none) + convolve(model, geometry, 1, CONFIG, none) < 0.5 * dense
        assert group(model, geometry, 1, CONFIG, whole) + convolve(model, geometry, 1, CONFIG, whole) > dense
        assert 0.2 * dense < model.dense(geometry, 1, 4) < dense


def test_inputs_of_calibration_have_the_shares_asked_for() -> None:
    geometry = square(40, 8, 9, 9)
    x = make_input(geometry, 0.25, 0.5, 4)[0].flatten(0, 1).T
    flat = [channel for channel in x if channel.std() < 0.01]
    kinds = {tuple(channel.tolist()) for channel in x}
    assert x.shape == (40, 81) and len(flat) == 10 and len(kinds) == 40 - 20 + 5
