"""Tables are as wide as what they are printed on."""

import builtins

import pytest
from rich.console import Console

from haste_compiler.methods.explanation import Explanation, LayerChoice
from haste_compiler.text import as_text, numbers

HEADINGS = ("", "first", "second heading", "third heading", "the last heading")
ROWS = [("layer1.0.conv1", "1.00", "22.00", "333.00", "4444.00"), ("layer1.0.conv2", "5", "6", "7", "8")]


def table() -> str:
    return as_text(numbers("Numbers", HEADINGS, ROWS, 1, ("third heading", "first")))


def test_a_narrow_terminal_gets_fewer_columns_and_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "64")
    text = table()
    assert max(map(len, text.splitlines())) <= 64
    assert "4444.00" in text and "333.00" not in text and "22.00" in text and "no room for third heading" in text


def test_a_pipe_gets_all_of_them_in_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    text = table()
    assert "333.00" in text and "no room" not in text and len(text.splitlines()) == 6


def test_a_notebook_gets_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was shown as HTML beside the cell while it was made, and str() was empty."""
    expected = table()
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    assert Console().is_jupyter and table() == expected


def test_reasons_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = str(Explanation((LayerChoice("layer1.0.conv1", None, "a reason that is longer than the line " * 2),)))
    assert max(map(len, text.splitlines())) <= 60 and "…" not in text
