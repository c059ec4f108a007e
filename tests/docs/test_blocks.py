"""Every code block of the pages: Python runs, a page's blocks one after another; of command lines each word exists.

What a page's blocks need beforehand stands in a comment that renders nothing, ``<!-- invisible-code-block: python``.
What can't run has a comment that says why, ``<!-- skip: next "reason" -->``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from unittest import SkipTest

import pytest
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from haste_compiler.validation.thresholds import Thresholds
from tests.docs.commands import ROOT, CommandError, check, command_lines, typed_lines

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

LANGUAGES = {"bash", "console", "cpp", "make", "python", "text", "toml", "xml", "yaml"}


def _bash(example: Example) -> None:
    for line in command_lines(example.parsed):
        check(line)


def _console(example: Example) -> None:
    for line in typed_lines(example.parsed):
        check(line)


def _toml(example: Example) -> None:
    """Of settings for this package, that they are known."""
    Path("pyproject.toml").write_text(example.parsed, encoding="utf-8")
    tomllib.loads(example.parsed)
    Thresholds.of_project(Path.cwd())


PARSERS: Sequence[Callable[[Document], Iterable[Region]]] = [
    PythonCodeBlockParser(),
    SkipParser(),
    CodeBlockParser("bash", _bash),
    CodeBlockParser("console", _console),
    CodeBlockParser("toml", _toml),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = Sybil(parsers=PARSERS, path=str(page.parent), patterns=[page.name]).parse(page)
    monkeypatch.chdir(tmp_path)
    for example in document.examples():
        try:
            example.evaluate()
        except SkipTest as skipped:
            assert str(skipped), f"{page}:{example.line}: a block is skipped without a reason"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_says_its_language(page: Path) -> None:
    """A block without one is neither run nor checked."""
    text = page.read_text(encoding="utf-8")
    opened = [line for place, line in enumerate(re.findall(r"^```.*$", text, flags=re.M)) if place % 2 == 0]
    assert {line.removeprefix("```") for line in opened} <= LANGUAGES
    prose = re.sub(r"^```.*?^```$|<!--.*?-->", "", text, flags=re.M | re.S)
    assert re.findall(r"^\n    \S.*$", prose, flags=re.M) == [], (
        "an indented block: write it between ``` with its language"
    )


QUOTE = re.compile(
    r'<!-- skip: next "quoted from (?P<file>\S+)" -->\n\n```python\n(?P<code>.*?)^```$', flags=re.M | re.S
)
"""A block that stands in a file which has tests of its own."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_quotes_are_what_the_file_says(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    quotes = list(QUOTE.finditer(text))
    assert len(quotes) == text.count("quoted from")
    for quote in quotes:
        assert quote["code"] in (ROOT / quote["file"]).read_text(encoding="utf-8"), quote["file"]


@pytest.mark.parametrize(
    "line",
    [
        "haste compyle torchvision:resnet18 -o net.haste",
        "haste compile torchvision:resnet18 -o net.haste --tolerence 0.2",
        "haste compile torchvision:resnet18 -o net.haste --precision int9",
        "haste compile -o net.haste",
        "haste cache sise",
        "OMP_NUM_THREADS=1 python -m benchmarks.peer",
        "python -m benchmarks.peers --netwroks vgg",
        "python examples/vgt.py",
        "make lnit",
        'pip install "haste-compiler[onx]"',
        "hatse demo",
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    with pytest.raises(CommandError):
        check(line)
