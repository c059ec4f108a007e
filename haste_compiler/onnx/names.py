"""Names that Python and PyTorch take, for names of any characters."""

from __future__ import annotations

import keyword
import re


class Names:
    """Hands out identifiers, and paths of modules, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._paths: set[str] = set()

    def make(self, name: str, otherwise: str) -> str:
        """An identifier like ``name``; like ``otherwise`` where nothing of it is left."""
        made = _plain(name) or otherwise
        if made[0].isdigit() or keyword.iskeyword(made) or made in ("self", "forward", "training"):
            made = f"{otherwise}_{made}"
        unique, number = made, 1
        # PyTorch's modules have attributes of their own, such as "float" and "half".
        while unique in self._taken or unique in _RESERVED:
            unique, number = f"{made}_{number}", number + 1
        self._taken.add(unique)
        return unique

    def path(self, path: str, otherwise: str) -> str:
        """A module's path like ``path``, such as "features.0"; an identifier where it is none or is taken."""
        parts = [_plain(part) for part in path.split(".")]
        wanted, first = ".".join(parts), parts[0]
        if len(parts) > 1 and all(parts) and self._is_free(wanted) and _is_attribute(first):
            self._taken.add(first)
            self._paths.add(wanted)
            return wanted
        made = self.make(path, otherwise)
        self._paths.add(made)
        return made

    def _is_free(self, path: str) -> bool:
        """Whether a module may stand there: none stands above, below, or at its place, and no tensor."""
        above = {path[:end] for end, letter in enumerate(path) if letter == "."}
        if {path, *above} & self._paths or any(other.startswith(f"{path}.") for other in self._paths):
            return False
        first = path.partition(".")[0]
        return first not in self._taken or any(other.startswith(f"{first}.") for other in self._paths)


def _is_attribute(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and name not in _RESERVED


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")


def layer_name(node_name: str, op: str, weight: str) -> str:
    """What a layer is called in the network that was exported, as far as it can be told.

    PyTorch's exporters keep the weights' names: of "features.0.weight" the layer is "features.0". Where they made new
    weights, one of them still names nodes by modules: "/layer1/layer1.0/conv1/Conv" is "layer1.0.conv1".
    """
    if weight.endswith(".weight"):
        return weight.removesuffix(".weight")
    parts = [part for part in node_name.split("/") if part]
    if len(parts) > 1 and re.fullmatch(rf"{op}(_\d+)?", parts[-1]):
        parts.pop()
    if not node_name.startswith("/"):
        return "_".join(parts)
    path, last = "", ""
    for part in parts:
        path = path.removesuffix(last) + part if last and part.startswith(f"{last}.") else f"{path}.{part}"
        last = part
    return path.removeprefix(".")


def _reserved() -> frozenset[str]:
    from torch import fx, nn

    return frozenset(dir(fx.GraphModule)) | frozenset(vars(nn.Module())) | {"inputs", "outputs"}


_RESERVED = _reserved()
