"""Names that a package imports when they are first asked for: what needs no PyTorch doesn't wait for it."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

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
        with deferred_interrupts(), quick_imports():
            module = importlib.import_module(modules[name])
        return getattr(module, name)

    return get


_DISTRIBUTED = "tvm.runtime.disco"


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """While it is open, PyTorch and TVM are imported in about two thirds of the time."""
    # Modules stay: to look for garbage among what they make, again and again, finds none.
    collects = gc.isenabled()
    # TVM does without this module, as its library isn't loaded yet; finding that out reads all libraries' symbols.
    absent = "tvm" not in sys.modules
    try:
        gc.disable()
        if absent:
            cast("dict[str, object]", sys.modules)[_DISTRIBUTED] = None
        yield
    finally:
        if absent and sys.modules.get(_DISTRIBUTED, sys) is None:
            del sys.modules[_DISTRIBUTED]
        if collects:
            gc.enable()
