"""Limits from pyproject.toml, and what a report is held against."""

import math
from pathlib import Path

import pytest

from haste_compiler import ConfigError, InputError
from haste_compiler.validation.thresholds import Thresholds


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def test_of_the_nearest_project(tmp_path: Path) -> None:
    write(tmp_path, "[tool.haste]\nmax-rel-error = 0.2\nmin_agreement = 1\n")
    below = tmp_path / "tests" / "deep"
    below.mkdir(parents=True)
    limits, path = Thresholds.of_project(below)
    assert limits == Thresholds(max_rel_error=0.2, min_agreement=1) and path == tmp_path / "pyproject.toml"
    # Another project that lies in this one has limits of its own, or none.
    write(below, "[project]\nname = 'other'\n")
    assert Thresholds.of_project(below) == (Thresholds(), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.haste]\nmax_rel_err = 0.2\n", r"has no limit 'max_rel_err'; did you mean max_rel_error\?"),
        ("[tool.haste]\nspeed = 2\n", "has no limit 'speed'.*"),
        ("[tool.haste]\nmin_speedup = 'fast'\n", r"\[tool.haste\]: min_speedup must be a number or None, not 'fast'"),
        ("[tool.haste]\nmin_speedup = nan\n", "min_speedup must be a number"),
        ("[tool.haste]\nmin_speedup = true\n", "min_speedup must be a number"),
        ("[tool.haste]\nmin_agreement = 95\n", "min_agreement must be at most 1, which is all, not 95"),
        ("[tool.haste]\nmax_rel_error = -0.1\n", "max_rel_error must be at least 0, not -0.1"),
        ("[tool]\nhaste = 3\n", "tool.haste must be a table"),
        ("[tool.haste\n", "can't be read: "),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Thresholds.of_project(write(tmp_path, text))
    assert str(tmp_path / "pyproject.toml") in str(caught.value)


def test_given_limits_win() -> None:
    limits = Thresholds(max_rel_error=0.2, min_agreement=0.9).updated(max_rel_error=0.1, min_agreement=None)
    assert limits == Thresholds(max_rel_error=0.1, min_agreement=0.9)
    with pytest.raises(InputError, match="max_rel_error must be a number"):
        limits.updated(max_rel_error=math.nan)


def test_verdicts() -> None:
    limits = Thresholds(max_rel_error=0.2, min_agreement=0.9, min_speedup=1)
    verdicts = limits.verdicts(max_rel_error=0.2, agreement=math.nan)
    assert [verdict.missed for verdict in verdicts] == [
        "",
        "agreement is nan, must be at least 0.9",
        "speedup must be at least 1, but there is none",
    ]
