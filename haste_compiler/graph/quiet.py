"""Keeping PyTorch's tracing from printing what an exception says anyway."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep PyTorch from printing stacks and half-made graphs of a trace that fails: the exception says what matters.

    What it warns of is told once the trace succeeded.
    """
    disabled = logging.root.manager.disable
    # Not by the level of PyTorch's loggers: torch.export sets it anew.
    logging.disable(logging.CRITICAL)
    printed, errors = io.StringIO(), io.StringIO()
    try:
        with (
            warnings.catch_warnings(record=True) as held,
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(errors),
        ):
            # torch.export copies its own LeafSpec objects, whose class PyTorch deprecates.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            # PyTorch's own recurrent layers do what it warns of.
            warnings.filterwarnings("ignore", r"The tensor attributes? .*_flat_weights", UserWarning)
            yield
    finally:
        logging.disable(disabled)
    # What the model itself printed while it was traced.
    sys.stdout.write(printed.getvalue())
    sys.stderr.write(errors.getvalue())
    for warning in held:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
