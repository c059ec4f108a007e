"""What a page is drawn with is installed by an extra."""

from __future__ import annotations

import importlib

from haste_compiler.errors import HasteError

_NEEDED = ("bokeh", "jinja2")


def require() -> None:
    """Check that a report can be drawn, before anything is measured.

    Raises:
        HasteError: a library is missing.
    """
    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            raise HasteError(f"a report needs {name}: `pip install haste-compiler[report]`") from None
