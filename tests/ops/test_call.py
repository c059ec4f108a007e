"""Typed views of operators' calls: of every operator that has one."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from torch import fx

import haste_compiler.methods
import haste_compiler.ops
from haste_compiler.ops.call import OpCall


def modules(package: ModuleType) -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


def packages() -> Iterator[ModuleType]:
    """Where operators are: in a folder of their own, and in one of each method."""
    yield haste_compiler.ops
    for method in modules(haste_compiler.methods):
        if any(found.name == "ops" for found in pkgutil.iter_modules(getattr(method, "__path__", ()))):
            yield importlib.import_module(f"{method.__name__}.ops")


def views() -> list[type[OpCall]]:
    """The views that these folders define; a base of several views names no operator."""
    found = [
        each
        for package in packages()
        for module in modules(package)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, OpCall) and each.__module__ == module.__name__
    ]
    return [each for each in found if hasattr(each, "OP")]


def arguments(view: type[OpCall]) -> list[Any]:
    return list(view.OP._schema.arguments)


def call(view: type[OpCall], count: int, named: bool = False) -> fx.Node:
    """A node that calls the operator with its first ``count`` arguments, each a node of its own; or all by name."""
    graph = fx.Graph()
    given: dict[str, Any] = {each.name: graph.placeholder(each.name) for each in arguments(view)[:count]}
    return graph.call_function(view.OP, () if named else tuple(given.values()), given if named else {})


def test_there_are_views() -> None:
    names = {view.__name__ for view in views()}
    assert {"ConvCall", "LinearCall", "AffineCall", "ShuffleCall", "HashCall", "GroupCall", "MergeCall"} <= names
    assert len({view.OP for view in views()}) == len(names)


@pytest.mark.parametrize("view", views(), ids=lambda view: view.__name__)
def test_fields_are_the_arguments(view: type[OpCall]) -> None:
    assert [field.name for field in dataclasses.fields(view)] == [each.name for each in arguments(view)]


@pytest.mark.parametrize("view", views(), ids=lambda view: view.__name__)
def test_a_call_is_read_and_written(view: type[OpCall]) -> None:
    node = call(view, len(arguments(view)))
    read = view.of(node)
    assert read.args == node.args == tuple(getattr(read, each.name) for each in arguments(view))
    named = call(view, len(node.args), named=True)
    assert view.of(named).args == tuple(named.kwargs.values())
    first = dataclasses.fields(view)[0].name
    changed = read.replace(**{first: node.args[-1]})
    changed.write_to(node)
    assert node.args == (node.args[-1], *read.args[1:]) and view.of(node) == changed


@pytest.mark.parametrize("view", views(), ids=lambda view: view.__name__)
def test_what_is_left_out_is_the_default(view: type[OpCall]) -> None:
    required = [each for each in arguments(view) if not each.has_default_value()]
    read = view.of(call(view, len(required)))
    assert read.args[len(required) :] == tuple(each.default_value for each in arguments(view)[len(required) :])


def test_another_operators_call_is_refused() -> None:
    first, second, *_ = views()
    with pytest.raises(AssertionError, match="is not"):
        first.of(call(second, 1))
