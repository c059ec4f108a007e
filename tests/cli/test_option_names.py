"""Errors speak of options, not of Python's arguments."""

import click
import pytest

from haste_compiler.cli.commands import haste
from haste_compiler.cli.option_names import in_option_names


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("min_agreement must be at most 1, not 95", "--min-agreement must be at most 1, not 95"),
        (
            "max_rel_error is 2, must be at most 1; speedup is 1",
            "--max-rel-error is 2, must be at most 1; speedup is 1",
        ),
        ("threads is 0: allowed are 1 and more", "--threads is 0: allowed are 1 and more"),
        ("the machine has 2 threads is no option", "the machine has 2 threads is no option"),
        ("layer 'min_agreement.conv' is odd", "layer 'min_agreement.conv' is odd"),
        ("flat_tolerance must be at least 0", "--flat-tolerance must be at least 0"),
    ],
)
def test_names(message: str, words: str) -> None:
    assert in_option_names(message, haste.commands["validate"]) == words
    assert in_option_names(message, None) == message


def test_no_command_lacks_traceback() -> None:
    for command in (haste, *haste.commands.values()):
        assert any(isinstance(each, click.Option) and "--traceback" in each.opts for each in command.params)
