"""Which variables of a Relax function are read, directly or by others that are: TVM drops the rest."""

from __future__ import annotations

from typing import Any

from tvm import relax


def read_variables(function: Any) -> set[Any]:
    """The variables that the result of ``function``, a sequence of blocks without branches, is made of."""
    body = function.body
    read = set(relax.analysis.free_vars(body.body))
    for block in reversed(list(body.blocks)):
        for binding in reversed(list(block.bindings)):
            if binding.var in read:
                read.update(relax.analysis.free_vars(binding.value))
    return read
