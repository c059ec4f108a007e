"""The configuration on the command line, and wrong usage."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from haste_compiler import HasteConfig, QuantizedConfig
from haste_compiler.cli.options import config_options
from haste_compiler.methods import registry
from haste_compiler.methods.option import Option, Preset
from tests.cli.conftest import Haste


def config_of(*arguments: str) -> Any:
    @click.command()
    @config_options
    def command(config: Any) -> Any:
        return config

    return command.main(list(arguments), standalone_mode=False)


def test_every_field_is_an_option() -> None:
    assert config_of() == HasteConfig()
    given = "--num-hyperplanes 9 --tolerance none --flat-tolerance 0.2 --patch-size 4x8 --merge mean --skip none"
    more = "--nonzeros none --seed 3 --min-channels 2 --min-reads 0 --winograd 2 --no-cost-model"
    assert config_of(*given.split(), *more.split()) == HasteConfig(
        num_hyperplanes=9,
        tolerance=None,
        flat_tolerance=0.2,
        patch_size=(4, 8),
        merge="mean",
        skip="none",
        nonzeros=None,
        seed=3,
        min_channels=2,
        min_reads=0,
        winograd=2,
        cost_model=False,
    )
    assert config_of("--tolerance", "0", "--patch-size", "4") == HasteConfig(tolerance=0.0, patch_size=4)


def test_files_and_presets(tmp_path: Path) -> None:
    stored = HasteConfig(seed=5, layers={"conv": {"tolerance": 0.1}})
    stored.save(tmp_path / "config.json")
    assert config_of("--config", str(tmp_path / "config.json")) == stored
    assert config_of("--config", str(tmp_path / "config.json"), "--merge", "mean") == stored.replace(merge="mean")
    assert config_of("--preset", "paper", "--patch-size", "4") == HasteConfig.paper().replace(patch_size=4)
    with pytest.raises(click.UsageError, match="exclude each other"):
        config_of("--config", str(tmp_path / "config.json"), "--preset", "exact")


@dataclass(frozen=True)
class OtherConfig:
    keep: float | None = 0.5
    first: int = 0

    def replace(self, **changes: Any) -> "OtherConfig":
        return replace(self, **changes)


@pytest.fixture
def other_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second method, one of whose options has the name of one of HASTE's."""
    options: Any = ModuleType("options")
    options.OPTIONS = (
        Option("keep", "keep", float, "Part that stays.", none=True),
        Option("seed", "first", int, "Not shown: HASTE's text is."),
    )
    options.PRESETS = (Preset("half", "half of it", OtherConfig),)
    config: Any = ModuleType("config")
    config.CONFIG = OtherConfig
    monkeypatch.setattr(registry, "NAMES", ("haste", "other"))
    monkeypatch.setitem(sys.modules, "haste_compiler.methods.other.options", options)
    monkeypatch.setitem(sys.modules, "haste_compiler.methods.other.config", config)


@pytest.mark.usefixtures("other_method")
def test_the_first_method_that_has_what_is_given_is_meant() -> None:
    assert config_of() == HasteConfig() and config_of("--seed", "3") == HasteConfig(seed=3)
    assert config_of("--keep", "none", "--seed", "3") == OtherConfig(keep=None, first=3)
    assert config_of("--preset", "half") == OtherConfig()
    with pytest.raises(click.UsageError, match="no one method takes all of --preset half, --min-reads"):
        config_of("--preset", "half", "--min-reads", "0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "No such command 'fly'"),
        (["compile"], "Missing argument 'MODEL'"),
        (["compile", "a:b"], "Missing option '-o' / '--output'"),
        (["compile", "a:b", "-o", "/nowhere/at/all.haste"], "there is no folder /nowhere/at"),
        (["info", "a:b", "--tolerance", "much"], "'much' is no number, nor none"),
        (["info", "a:b", "--patch-size", "4by4"], "'4by4' is neither a side such as 8 nor HEIGHTxWIDTH"),
        (["info", "a:b", "--tolerance", "-1"], "tolerance must be finite and at least 0"),
        (["info", "a:b", "--merge", "sum"], "'sum' is not one of 'mean', 'projection'"),
        (["info", "a:b", "--config", "absent.json"], "'absent.json' does not exist"),
        (["validate", "a:b"], "Missing option '--images'"),
        (["info", "resnet18"], "MODEL is 'resnet18': allowed are torchvision:NAME"),
        (["info", "haste_compiler.demo:load_network"], "Give --input, such as --input 1x3x224x224"),
        (
            ["info", "haste_compiler.demo:load_network", "--input", "1x1x8x8", "--target", "cuba"],
            "unknown target 'cuba'",
        ),
    ],
)
def test_wrong_usage_is_one_line(haste: Haste, arguments: list[str], message: str) -> None:
    code, out, err = haste(*arguments)
    last = err.splitlines()[-1]
    assert code == 2 and not out and last.startswith("error: ") and message in last
    assert "Traceback" not in err


def test_configuration_files_that_are_refused(haste: Haste, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"tolerence": 1}))
    code, _, err = haste("info", "a:b", "--config", tmp_path / "config.json")
    assert code == 2 and "unknown field 'tolerence'; did you mean 'tolerance'?" in err


def test_help_and_version(haste: Haste) -> None:
    code, out, _ = haste("--help")
    assert code == 0
    for word in ("compile", "validate", "search", "tune", "bench", "info", "demo", "Exit codes", "torchvision:NAME"):
        assert word in out
    methods = [f"{name} {summary}" for name, summary in registry.method_summaries().items()]
    for command in ((), ("info",)):
        lines = [" ".join(line.split()) for line in haste(*command, "--help")[1].splitlines()]
        assert lines[lines.index("Methods:") + 1 :] == methods
    assert haste("--version")[0] == 0


def test_a_search_has_a_limit_of_its_own_by_a_methods_option(haste: Haste) -> None:
    """What a configuration may change the outputs by, and what a search may: one option a command."""
    assert config_of("--max-output-error", "0.01") == QuantizedConfig(max_output_error=0.01)
    _, out, _ = haste("search", "--help")
    assert out.count("--max-output-error") == 1 and "Largest relative error of the outputs." in out
