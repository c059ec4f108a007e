"""The pytest plugin: the fixture ``assert_equivalent``, with the project's limits. Only its use imports PyTorch."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from haste_compiler.validation.thresholds import Thresholds

_LIMITS = {
    "max_rel_error": "most that the relative error of the worst batch may be",
    "min_agreement": "least part of the images with the original's top-1 class",
    "min_mac_reduction": "least net part of the multiply-adds that is saved",
    "min_speedup": "least speedup over the dense compile",
}
_OWN = ("min_mac_reduction", "min_speedup")
"""Limits that have no meaning for another compiler's network."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds one option for each limit."""
    group = parser.getgroup("haste", "compiled networks (haste-compiler)")
    for name, help in _LIMITS.items():
        group.addoption(
            f"--haste-{name.replace('_', '-')}", type=float, default=None, help=f"{help}; else: pyproject.toml"
        )


@pytest.fixture(scope="session")
def haste_thresholds(pytestconfig: pytest.Config) -> Thresholds:
    """The limits of the command line, else those of ``[tool.haste]`` in the nearest ``pyproject.toml``."""
    from haste_compiler.errors import HasteError
    from haste_compiler.validation.thresholds import Thresholds

    given = {name: pytestconfig.getoption(f"haste_{name}") for name in _LIMITS}
    try:
        return Thresholds.of_project(pytestconfig.rootpath)[0].updated(**given)
    except HasteError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture
def assert_equivalent(haste_thresholds: Thresholds) -> Iterator[Callable[..., Any]]:
    """``haste_compiler.testing.assert_equivalent`` with the project's limits where the test gives none.

    What PyTorch writes to its own trace while it exports stays out of the log that pytest shows of a failure.
    """
    from haste_compiler.runtime.artifact_load import LoadedModule
    from haste_compiler.runtime.compiled import CompiledModule
    from haste_compiler.testing.equivalence import assert_equivalent as check

    def checked(model: Any, compiled: Any, inputs: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        limits = vars(haste_thresholds)
        if isinstance(compiled, LoadedModule):
            limits = {**limits, "min_speedup": None}
        elif not isinstance(compiled, CompiledModule):
            limits = {name: limit for name, limit in limits.items() if name not in _OWN}
        return check(model, compiled, inputs, **{**limits, **options})

    # Pytest's own handler sits on this logger too, as on all that don't propagate.
    trace = logging.getLogger("torch.__trace")
    trace.addFilter(_asked_for)
    yield checked
    trace.removeFilter(_asked_for)


def _asked_for(record: logging.LogRecord) -> bool:
    """Whether somebody wants PyTorch's trace."""
    return "TORCH_TRACE" in os.environ
