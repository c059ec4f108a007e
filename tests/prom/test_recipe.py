"""Learning rates, and epochs as they are typed."""

import pytest

from haste_compiler.errors import ConfigError
from haste_compiler.prom.recipe import Phase, parse_sizes


def test_the_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    phase = Phase("float", (8,) * 10, 0.2, 0.25)
    rates = [phase.rate(step, 100) for step in range(100)]
    top = rates.index(max(rates))
    assert top == 25 and rates[0] == 0 and max(rates) == 0.2 and 0 < rates[-1] < 1e-3
    assert rates[:26] == sorted(rates[:26]) and rates[26:] == sorted(rates[26:], reverse=True)


def test_without_a_rise_it_starts_at_the_peak() -> None:
    assert Phase("prom", (8,), 0.1, 0.0).rate(0, 10) == 0.1


def test_epochs_and_sizes() -> None:
    assert parse_sizes("2@24,1@32", 8) == (24, 24, 32)
    assert parse_sizes("3", 28) == (28, 28, 28)


@pytest.mark.parametrize("text", ["", "x", "0", "3@", "3@0", "-1", "2@x"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="EPOCHS or EPOCHS@PIXELS"):
        parse_sizes(text, 8)
