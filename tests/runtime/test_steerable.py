"""Assignments to a compiled network: each takes effect, or is an error that says what would."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import haste_compiler
from haste_compiler import CompiledModule, ConfigError, HasteConfig
from haste_compiler.runtime.steerable import Steerable


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)).eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(1, 16, 9, 9, generator=torch.Generator().manual_seed(1))


def compiled(x: Tensor, **config: object) -> CompiledModule:
    return haste_compiler.compile(network(), (x,), config=HasteConfig(**config), threads=1)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["compiled", "loaded"])
def merging(request: pytest.FixtureRequest, x: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Steerable:
    made = compiled(x, cost_model=False)
    if request.param == "compiled":
        return made
    path: Path = tmp_path_factory.mktemp("steerable") / "net.haste"
    made.save(path)
    return haste_compiler.load(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "tolerence",
            "has no 'tolerence'; did you mean 'tolerance'.* what can be steered is num_hyperplanes, tolerance",
        ),
        ("xyz", "has no 'xyz': what can be steered is num_hyperplanes, tolerance, flat_tolerance"),
        ("patch_size", r"patch_size is compiled in: .*; compile again with HasteConfig\(patch_size=...\)"),
        ("threads", "threads can't be assigned: what can be steered is"),
        ("target", "target can't be assigned"),
        ("configs", "configs can't be assigned"),
        ("stats", "stats can't be assigned"),
    ],
)
def test_what_cannot_be_steered_is_an_error(merging: Steerable, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        setattr(merging, name, 4)


def test_a_misspelt_name_cannot_be_read(merging: Steerable) -> None:
    with pytest.raises(AttributeError, match="no attribute 'tolerence'; did you mean 'tolerance'"):
        merging.tolerence  # noqa: B018


@pytest.mark.parametrize("value", [0.1, None, {"0": 0.3, "2": None}])
def test_it_reads_as_what_was_set(merging: Steerable, value: object) -> None:
    merging.tolerance = value
    assert merging.tolerance == value


@pytest.mark.parametrize("value", [0.1, {"0": 0.1}])
def test_where_no_layer_merges_an_assignment_is_an_error(x: Tensor, value: object) -> None:
    """For all layers it was silent."""
    dense = compiled(x, enabled=False)
    with pytest.raises(ConfigError, match="nothing to steer"):
        dense.tolerance = value
    with pytest.raises(ConfigError, match="none of the 2 convolutions is a HASTE layer"):
        dense.num_hyperplanes = 3


def test_a_parameter_that_no_layer_reads_is_an_error(x: Tensor) -> None:
    exact = compiled(x, cost_model=False, skip="zeros")
    for value in (0.5, {"0": 0.5}):
        with pytest.raises(ConfigError, match=r"flat_tolerance changes nothing in '0': skip='zeros' is compiled in"):
            exact.flat_tolerance = value
    mixed = compiled(x, cost_model=False, skip="zeros", layers={"2": {"skip": "flat"}})
    mixed.flat_tolerance = 0.5
    assert mixed.flat_tolerance == 0.5


def test_before_the_first_call(x: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    """What was assigned is read back, and where it turns out to steer nothing, that is said."""
    lazy = haste_compiler.compile(network(), config=HasteConfig(enabled=False), threads=1)
    lazy.tolerance = 0.1
    lazy.flat_tolerance = {"2": 0.5}
    assert lazy.tolerance == 0.1 and lazy.flat_tolerance == {"*": 0.15, "2": 0.5}
    lazy.flat_tolerance = 0.2
    with pytest.raises(ConfigError, match="has no 'tolerence'"):
        lazy.tolerence = 0.1
    with caplog.at_level(logging.WARNING):
        lazy(x)
    assert "tolerance was assigned before the network was compiled: tolerance: none of the 2" in caplog.text
    assert lazy.tolerance == 0.1
