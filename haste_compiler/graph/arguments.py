"""Checking what ``compile`` and ``tune`` are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from haste_compiler.errors import InputError

Model = nn.Module | torch.export.ExportedProgram
"""What is compiled: a module, or what ``torch.export`` made of one."""


def as_module(model: Any) -> Any:
    """The module of an exported program; anything else as it is."""
    return model.module(check_guards=False) if isinstance(model, torch.export.ExportedProgram) else model


def check_arguments(
    model: object, example_inputs: Sequence[Any] | Tensor | None, threads: int | None
) -> Sequence[Any] | None:
    """Check a model, its example inputs and a number of threads; return the example inputs as a sequence.

    Raises:
        InputError: something has a wrong type.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {type(model).__name__}: allowed is a torch.nn.Module")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads is {threads!r}: allowed are whole numbers from 1 on")
    if isinstance(example_inputs, Tensor):
        example_inputs = (example_inputs,)
    if not isinstance(example_inputs, Sequence | None) or isinstance(example_inputs, str):
        raise InputError(f"example_inputs is {type(example_inputs).__name__}: allowed are a tensor and a tuple")
    return example_inputs
