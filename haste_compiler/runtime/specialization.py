"""``Specialization``: a network compiled for one input signature, with what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_unflatten

from haste_compiler.methods.layers import ConvLayer
from haste_compiler.runtime.executable import Executable


class Specialization:
    """A network compiled for one input signature.

    Attributes:
        executable: the machine code.
        out_spec: structure of what the model returns.
        layers: every convolution of the network, and the method that takes it.
        graphs: the graph as text after each pass, by the pass's name, in order.
        constants: outputs that are no tensors, by their position among the outputs' leaves.
        in_spec: structure of ``(args, kwargs)`` that it is called with.
    """

    def __init__(
        self,
        executable: Executable,
        out_spec: TreeSpec,
        layers: list[ConvLayer],
        graphs: dict[str, str],
        constants: dict[int, Any],
        in_spec: TreeSpec,
    ) -> None:
        self.executable, self.out_spec, self.layers, self.graphs = executable, out_spec, layers, graphs
        self.constants, self.in_spec = constants, in_spec

    @property
    def dense_layers(self) -> dict[str, str]:
        """Of the convolutions that no method takes, why."""
        return {layer.name: layer.reason for layer in self.layers if layer.method is None}

    def build(self, tensors: Sequence[Tensor]) -> Any:
        """What the model returns, from the tensors that the machine code made."""
        leaves: list[Any] = list(tensors)
        for position, value in self.constants.items():
            leaves.insert(position, value)
        return tree_unflatten(leaves, self.out_spec)
