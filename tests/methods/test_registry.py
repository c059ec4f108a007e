"""What every method says to the command line."""

import pytest

from haste_compiler.methods import registry


@pytest.mark.parametrize("name", registry.NAMES)
def test_options_and_presets_fit_the_configuration(name: str) -> None:
    config = registry.config_class(name)
    options = registry.method_options()[name]
    assert options and all(hasattr(config(), option.field) for option in options)
    assert len({option.name for option in options}) == len({option.field for option in options}) == len(options)
    assert all(isinstance(preset.make(), config) for preset in registry.method_presets()[name])


def test_a_summary_is_one_line() -> None:
    assert all(0 < len(text) <= 64 and "\n" not in text for text in registry.method_summaries().values())
