"""What is said of work that takes long."""

import pytest

from haste_compiler.progress import endless, progress


def test_a_pipe_gets_a_line_a_phase(capsys: pytest.CaptureFixture[str]) -> None:
    """It got nothing, for as long as the work took."""
    with progress("searching") as tick:
        for doing, part in (("one", 0.0), ("one", 0.2), ("two", 0.5), ("one", 0.9)):
            tick(doing, part)
    out, err = capsys.readouterr()
    assert err.splitlines() == ["searching: one", "searching: two", "searching: one"] and not out


def test_so_it_does_where_nobody_knows_how_much_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with endless("validating") as tick:
        for phase, step in (("one", "1"), ("one", "2"), ("two", "")):
            tick(phase, step)
    out, err = capsys.readouterr()
    assert err.splitlines() == ["validating: one", "validating: two"] and not out


def test_nothing_is_shown_where_nothing_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("searching", shown=False) as tick, endless("validating", shown=False) as step:
        tick("one", 0.0)
        step("one", "1")
    assert capsys.readouterr() == ("", "")
