"""The pages that say what there is leave nothing out, and say what the code says."""

import importlib
import importlib.util
import re

import pytest

import haste_compiler
from docs.tools.options import PAGE, described, page
from haste_compiler.methods.registry import config_class, names

ENTRIES = re.findall(r"^::: (\S+)$", (PAGE.parent / "api.md").read_text(), flags=re.M)


def _named(entry: str) -> object:
    module, _, name = entry.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_public_name_is_in_the_reference() -> None:
    there = {id(_named(entry)) for entry in ENTRIES}
    assert [name for name in haste_compiler.__all__ if id(getattr(haste_compiler, name)) not in there] == []


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_says_something(entry: str) -> None:
    assert (_named(entry).__doc__ or "").strip()


def _is_module(path: str) -> bool:
    try:
        return importlib.util.find_spec(path) is not None
    except ModuleNotFoundError:
        return False


def test_no_entry_shows_a_module_in_place_of_its_function() -> None:
    """The reader of docstrings doesn't run code: of a function and a module of one name it would take the module."""
    assert [entry for entry in ENTRIES if _is_module(entry)] == []


@pytest.mark.parametrize("method", names())
def test_every_field_of_a_configuration_is_described(method: str) -> None:
    config = config_class(method)
    assert described(config).keys() == set(config.fields())


def test_the_page_of_options_is_what_the_docstrings_say() -> None:
    assert PAGE.read_text() == page(), "write it again: python -m docs.tools.options"
