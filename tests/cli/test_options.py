"""The configuration on the command line, and wrong usage."""

import json
from pathlib import Path

import click
import pytest

from haste_compiler import HasteConfig
from haste_compiler.cli.options import config_options
from tests.cli.conftest import Haste


def config_of(*arguments: str) -> HasteConfig:
    @click.command()
    @config_options
    def command(config: HasteConfig) -> HasteConfig:
        return config

    found = command.main(list(arguments), standalone_mode=False)
    assert isinstance(found, HasteConfig)
    return found


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
    assert haste("--version")[0] == 0
