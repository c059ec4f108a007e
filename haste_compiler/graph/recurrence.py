"""Refusing recurrent layers: their steps wait for each other, and nothing here is made for that."""

from __future__ import annotations

import re

from torch import fx

from haste_compiler.errors import UnsupportedOperatorError
from haste_compiler.graph.nodes import layer_name

_OPERATOR = re.compile(r"aten\.(lstm|gru|rnn)(?:_tanh|_relu)?(_cell)?\.")


def refuse_recurrent(gm: fx.GraphModule) -> None:
    """Check that a graph has no recurrent layer.

    Raises:
        UnsupportedOperatorError: it has; the message names it.
    """
    for node in gm.graph.nodes:
        found = _OPERATOR.match(str(node.target)) if node.op == "call_function" else None
        if found:
            kind = found[1].upper() + ("Cell" if found[2] else "")
            raise UnsupportedOperatorError(
                f"recurrent layers aren't supported, and layer {layer_name(node)!r} is one ({kind}, operator "
                f'{node.target}): torch.compile(model, backend="haste") compiles the convolutions beside it'
            )
