"""The error messages that ``docs/troubleshooting.md`` quotes are the code's."""

import ast
import re
from pathlib import Path

import pytest

import haste_compiler

PAGE = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"

QUOTED = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.M)


def _templates() -> set[str]:
    """Every string of the package, ``\\0`` where a value is put in."""
    found = set()
    for file in Path(haste_compiler.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


TEMPLATES = "\n".join(_templates())


def _pattern(message: str) -> str:
    parts = [re.escape(part) for part in message.split("…")]
    # A value in the page may be words of the code's, and those may go on.
    return r"[^\n]*?".join(parts)


def test_messages_are_quoted() -> None:
    assert len(QUOTED) > 30


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_in_the_code(message: str) -> None:
    assert re.search(_pattern(message), TEMPLATES), "no error says this any more"
