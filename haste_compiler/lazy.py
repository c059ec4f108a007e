"""Names that a package imports when they are first asked for: what needs no PyTorch doesn't wait for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from haste_compiler.interrupts import deferred_interrupts


def on_demand(package: str, names: Mapping[str, Iterable[str]], root: str | None = None) -> Callable[[str], Any]:
    """A package's ``__getattr__`` (PEP 562).

    Args:
        package: the package's name.
        names: what is imported, by the module that it comes from.
        root: the package that these modules are of; None: the same.
    """
    modules = {name: f"{root or package}.{module}" for module, several in names.items() for name in several}

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with deferred_interrupts():
            module = importlib.import_module(modules[name])
        return getattr(module, name)

    return get
