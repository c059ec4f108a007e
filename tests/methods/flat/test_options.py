"""What the command line makes of this method's preset and options."""

from typing import Any

import click
import pytest

from haste_compiler import FlatConfig
from haste_compiler.cli.options import compile_options


def config_of(*arguments: str) -> Any:
    @click.command()
    @compile_options()
    def command(how: Any) -> Any:
        return how["config"]

    return command.main(list(arguments), standalone_mode=False)


@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        (("--preset", "flat"), FlatConfig()),
        (("--preset", "flat-exact"), FlatConfig(tile_tolerance=0.0)),
        (
            ("--preset", "flat", "--tile-tolerance", "0.01", "--no-cost-model"),
            FlatConfig(tile_tolerance=0.01, cost_model=False),
        ),
        (("--preset", "flat-exact", "--winograd", "0"), FlatConfig(tile_tolerance=0.0, winograd=0)),
    ],
)
def test_presets_and_options(arguments: tuple[str, ...], config: FlatConfig) -> None:
    assert config_of(*arguments) == config
