"""What the command line makes of ``--precision bf16`` and of this method's options."""

from pathlib import Path

import pytest

from haste_compiler import BFloat16Config, HasteConfig, QuantizedConfig
from tests.methods.options import config_of


@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        ((), BFloat16Config()),
        (("--max-error", "0.01", "--no-cost-model"), BFloat16Config(max_error=0.01, cost_model=False)),
        (("--target", "cuda -arch=sm_80"), HasteConfig()),
        (("--tolerance", "0.1"), HasteConfig(tolerance=0.1)),
    ],
)
def test_the_precision_says_whose_options_they_are(arguments: tuple[str, ...], config: object) -> None:
    assert config_of("--precision", "bf16", *arguments) == config


def test_the_preset_and_a_file(tmp_path: Path) -> None:
    assert config_of("--preset", "bf16", "--winograd", "2") == BFloat16Config(winograd=2)
    # What is in the file fits int8 as well.
    BFloat16Config(max_error=0.003).save(tmp_path / "config.json")
    assert config_of("--config", str(tmp_path / "config.json")) == QuantizedConfig(max_error=0.003)
    file = ("--config", str(tmp_path / "config.json"))
    assert config_of("--precision", "bf16", *file) == BFloat16Config(max_error=0.003)
