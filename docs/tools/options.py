"""Writes ``docs/options.md``: the fields of every method's configuration, out of docstrings and defaults.

``python -m docs.tools.options`` writes it again; a test holds the page against what it would write.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from haste_compiler.methods.registry import config_class, method_options, method_presets, names

PAGE = Path(__file__).resolve().parents[1] / "options.md"

_HEAD = """# Every option

What the configuration of each method has: its field in Python, its option on the command line, its default. A field
without an option is set in Python or in a file for `--config`. `layers` overrides the others for some layers.

This page is written by `python -m docs.tools.options` from the docstrings. The arguments of `compile`, `validate`,
`search` and `tune` are in [api.md](api.md), those of commands under `haste COMMAND --help`.
"""

_ATTRIBUTE = re.compile(r"^    (?P<name>\w+): (?P<text>.*(?:\n {8}.*)*)", re.MULTILINE)


def page() -> str:
    """The text of the page."""
    return "\n".join([_HEAD, *(line for name in names() for line in _method(name))])


def described(config: type[Any]) -> dict[str, str]:
    """What a configuration's docstring says of each field, in a line each."""
    attributes = (inspect.getdoc(config) or "").partition("Attributes:\n")[2].partition("\nRaises:")[0]
    return {each["name"]: " ".join(each["text"].split()) for each in _ATTRIBUTE.finditer(attributes)}


def _method(name: str) -> Iterator[str]:
    """The lines of one method's section."""
    config = config_class(name)
    usual, flags = config(), {option.field: option for option in method_options()[name]}
    texts = described(config)
    yield f"## {config.__name__}\n"
    yield _markdown((inspect.getdoc(config) or "").partition("\n")[0]) + "\n"
    yield "| field | option | default | what |\n|---|---|---|---|"
    for field in config.fields():
        option = flags.get(field)
        flag = "" if option is None else f"`--{option.name}`" + (f", `--no-{option.name}`" * (option.type is bool))
        yield f"| `{field}` | {flag} | `{_default(getattr(usual, field))}` | {_markdown(texts[field])} |"
    yield from _presets(config, method_presets()[name])


def _presets(config: type[Any], presets: Any) -> Iterator[str]:
    """The table of what has a name."""
    usual = config()
    yield "\n| preset | what | differs in |\n|---|---|---|"
    for preset in presets:
        made = preset.make()
        values = {field: getattr(made, field) for field in config.fields()}
        differing = [f"`{field}={value!r}`" for field, value in values.items() if value != getattr(usual, field)]
        yield f"| `--preset {preset.name}` | {_markdown(preset.help)} | {', '.join(differing) or 'nothing'} |"
    yield ""


def _default(value: Any) -> str:
    """A default as Python writes it."""
    return "{}" if isinstance(value, Mapping) and not value else repr(value)


def _markdown(text: str) -> str:
    """A docstring's text in Markdown, fit for a cell."""
    return text.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
