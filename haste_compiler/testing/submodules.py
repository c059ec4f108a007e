"""Finding where two ``nn.Module``s part that are built alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from haste_compiler.graph.capture import evaluation_mode
from haste_compiler.testing.elements import describe_difference
from haste_compiler.testing.layers import ROUNDING, compare
from haste_compiler.validation.running import fresh_copy


def first_submodule(
    model: nn.Module, other: nn.Module, inputs: Sequence[Any], limit: float = ROUNDING
) -> tuple[str, str] | None:
    """The first submodule, of those without children that both have under the same name, whose outputs part.

    Args:
        model: the original.
        other: a module with some submodules of the same names.
        inputs: positional arguments of one call.
        limit: a difference up to this part of the output's largest value is none.

    Returns:
        Its name and how the outputs differ, in words; None where no common submodule's outputs part.
    """
    with torch.no_grad(), evaluation_mode(model), evaluation_mode(other):
        mine = _outputs(model, inputs)
        theirs = _outputs(other, inputs)
    for (name, call), expected in mine.items():
        found = theirs.get((name, call))
        if found is None:
            continue
        if found.shape != expected.shape:
            return name, f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
        differing = compare(expected, found, limit)[0]
        if differing.any():
            return name, describe_difference(expected, found, differing)
    return None


def _outputs(module: nn.Module, inputs: Sequence[Any]) -> dict[tuple[str, int], Tensor]:
    """What every submodule without children returned, by its name and how often it was called before, in order."""
    found: dict[tuple[str, int], Tensor] = {}

    def keep(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            found[name, sum(known == name for known, _ in found)] = output.detach().clone()

    hooks = [
        each.register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output))
        for name, each in module.named_modules()
        if name and next(each.children(), None) is None
    ]
    try:
        module(*fresh_copy(tuple(inputs)))
    finally:
        for hook in hooks:
            hook.remove()
    return found
