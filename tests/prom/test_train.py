"""The whole way on digits: float32, prepared, converted, compiled; stopped and gone on with."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("sklearn", reason="scikit-learn, which carries the digits, is not installed")

import haste_compiler
from haste_compiler.errors import ConfigError, HasteError
from haste_compiler.methods.quantized.weights import quantize_filters
from haste_compiler.prom import PromConfig, prepare
from haste_compiler.prom.data import Labelled, normalized, read_data
from haste_compiler.prom.recipe import Phase, Recipe
from haste_compiler.prom.train import FLOAT_WEIGHTS, LOG, Description, load_trained, main, train
from haste_compiler.prom.training import accuracy

SIDE = 16
"""Pixels: of so few, training takes seconds."""

DIGITS = Description("digits", 1, 10, 1.0)
FLOAT, PROM = Phase("float", (SIDE,) * 6, 0.2), Phase("prom", (SIDE,) * 3, 0.1, 0.1, 0.7)
RECIPE = Recipe(batch=64)


@pytest.fixture(scope="module")
def data() -> tuple[Labelled, Labelled]:
    train_, test = read_data("digits", None, 32)
    return train_.resized(SIDE), test.resized(SIDE)


@pytest.fixture(scope="module")
def trained(data: tuple[Labelled, Labelled], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with torch.enable_grad():
        train(DIGITS, data, (FLOAT, PROM), RECIPE, PromConfig(), folder)
    return folder


def test_ternary_digits_are_as_right_as_float_ones_compiled_too(trained: Path, data: Any) -> None:
    test = data[1]
    x = normalized(test.pixels)
    network, plain = load_trained(trained), load_trained(trained, FLOAT_WEIGHTS)
    # Weights that are ternary stay what they are.
    prepared = prepare(network, (x[:1],)).eval()
    compiled = haste_compiler.compile(network, (x[:120],), precision="int8")
    in_float, as_trained = accuracy(plain, test, SIDE)[1], accuracy(prepared, test, SIDE)[1]
    scores = torch.cat([compiled(part) for part in x.split(120)])
    right = float((scores.argmax(1) == test.labels).float().mean())
    assert in_float > 0.96 and as_trained > in_float - 0.02 and right > in_float - 0.02
    assert float((scores.argmax(1) == prepared(x).argmax(1)).float().mean()) > 0.98
    pointwise = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(pointwise) == 3
    assert all(set(quantize_filters(m.weight)[0].unique().tolist()) == {-127, 0, 127} for m in pointwise)


def test_the_log_holds_both_curves(trained: Path) -> None:
    log = json.loads((trained / LOG).read_text())
    assert {name: len(epochs) for name, epochs in log["phases"].items()} == {"float": 6, "prom": 3}
    for name, epochs in log["phases"].items():
        assert epochs[-1]["loss"] < epochs[0]["loss"] and epochs[-1]["images"] == 360
        assert abs(epochs[-1]["accuracy"] - log["accuracy"][name]) < (0.02 if name == "prom" else 1e-9)
    assert log["network"]["network"] == "digits" and log["recipe"]["batch"] == 64


@torch.enable_grad()
def test_interrupted_training_ends_in_the_same_bits(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = (Labelled(data[0].pixels[:192], data[0].labels[:192], False), data[1])
    phases = (replace(FLOAT, sizes=(8, 10, 8)), replace(PROM, sizes=(8, 8)))
    arguments = (DIGITS, small, phases, RECIPE, PromConfig("learned"))
    train(*arguments, tmp_path / "whole")

    from haste_compiler.prom.training import Trainer

    epoch, left = Trainer._epoch, [0]

    def interrupted(self: Trainer, *rest: Any) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        epoch(self, *rest)

    monkeypatch.setattr(Trainer, "_epoch", interrupted)
    for epochs in (2, 2):
        left[0] = epochs
        with pytest.raises(KeyboardInterrupt):
            train(*arguments, tmp_path / "parts")
    left[0] = 9
    train(*arguments, tmp_path / "parts")
    for weights in ("network.safetensors", FLOAT_WEIGHTS):
        whole, parts = (load_trained(tmp_path / each, weights).state_dict() for each in ("whole", "parts"))
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert left[0] == 8, "one epoch was left, and no other was trained again"


def test_another_recipe_network_or_a_damaged_file_is_refused(trained: Path, data: Any, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    with pytest.raises(ConfigError, match=r"float\.pt was trained with batch 64, not 32"):
        train(DIGITS, data, (FLOAT, PROM), replace(RECIPE, batch=32), PromConfig(), folder)
    with pytest.raises(ConfigError, match=r"float\.pt is of another network"):
        train(replace(DIGITS, width=0.5), data, (FLOAT, PROM), RECIPE, PromConfig(), folder)
    (folder / "float.pt").write_bytes(b"no")
    with pytest.raises(HasteError, match=r"float\.pt can't be read"):
        train(DIGITS, data, (FLOAT, PROM), RECIPE, PromConfig(), folder)
    with pytest.raises(ConfigError, match="holds no weights of this network"):
        train(DIGITS, data, (FLOAT, PROM), RECIPE, PromConfig(), tmp_path / "new", start=folder / "float.pt")
    with pytest.raises(HasteError, match="holds no trained network"):
        load_trained(tmp_path)


@torch.enable_grad()
def test_on_the_command_line(trained: Path, tmp_path: Path) -> None:
    """From given weights, without a phase in float32, and without a teacher."""
    words = ["digits", "-o", str(tmp_path / "out"), "--network", "digits", "--width", "1", "--start"]
    rest = [str(trained / FLOAT_WEIGHTS), "--prom-epochs", "1@8", "--distillation", "0", "--quantizer", "mean"]
    result = CliRunner().invoke(main, words + rest)
    assert result.exit_code == 0, result.output
    assert "prom: " in result.output and "float: " not in result.output
    log = json.loads((tmp_path / "out" / LOG).read_text())
    assert list(log["phases"]) == ["prom"] and log["config"]["quantizer"] == "mean"
    wrong = CliRunner().invoke(main, ["digits", "-o", str(tmp_path / "out"), "--network", "mobilenet_v2"])
    assert wrong.exit_code == 1 and "Error: mobilenet_v2 " in wrong.output
