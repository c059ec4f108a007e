"""Names that Python and PyTorch take, for names of any characters."""

from __future__ import annotations

import keyword
import re


class Names:
    """Hands out identifiers, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def make(self, name: str, otherwise: str) -> str:
        """An identifier like ``name``; like ``otherwise`` where nothing of it is left."""
        made = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or otherwise
        if made[0].isdigit() or keyword.iskeyword(made) or made in ("self", "forward", "training"):
            made = f"{otherwise}_{made}"
        unique, number = made, 1
        # PyTorch's modules have attributes of their own, such as "float" and "half".
        while unique in self._taken or unique in _RESERVED:
            unique, number = f"{made}_{number}", number + 1
        self._taken.add(unique)
        return unique


def layer_name(node_name: str, op: str) -> str:
    """A node's name without the slash before it and the operator behind it: "/layer1/conv1/Conv" is "layer1/conv1"."""
    parts = [part for part in node_name.split("/") if part]
    if len(parts) > 1 and re.fullmatch(rf"{op}(_\d+)?", parts[-1]):
        parts.pop()
    return "/".join(parts)


def _reserved() -> frozenset[str]:
    from torch import fx, nn

    return frozenset(dir(fx.GraphModule)) | frozenset(vars(nn.Module())) | {"inputs", "outputs"}


_RESERVED = _reserved()
