"""What the command line makes of this method's preset and options."""

import pytest

from haste_compiler import FlatConfig
from tests.methods.options import config_of


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
