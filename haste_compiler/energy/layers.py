"""The layers of a network that have products, with what energy and storage depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from haste_compiler.graph.arguments import Model, as_module
from haste_compiler.graph.capture import capture
from haste_compiler.graph.nodes import CONVOLUTIONS
from haste_compiler.methods.products import OperatorMacs, operator_macs_of

KINDS = ("pointwise", "depthwise", "convolution", "linear", "matmul")
"""What layers are told apart by: 1×1 convolutions, one channel a filter, others; linear ones; products of values."""


@dataclass(frozen=True)
class ProductLayer:
    """A layer that has products.

    Attributes:
        name: qualified name.
        kind: one of ``KINDS``.
        macs: multiply-adds on the inputs, all of them together.
        weights: numbers in its filters; 0 of what multiplies values by values, or filters that came before.
    """

    name: str
    kind: str
    macs: int
    weights: int


@dataclass(frozen=True)
class Products:
    """All layers of a network that have products.

    Attributes:
        layers: in the order in which they run.
        others: numbers among the parameters that are no filters: scales and shifts of norms, biases, embeddings.
    """

    layers: tuple[ProductLayer, ...]
    others: int

    @property
    def macs(self) -> int:
        """Multiply-adds of all layers."""
        return sum(layer.macs for layer in self.layers)


def products(model: Model, inputs: Sequence[Any]) -> Products:
    """List the layers of a network that have products, from its shapes alone.

    Args:
        model: any module that ``compile`` takes.
        inputs: its positional arguments.

    Raises:
        CaptureError: the model can't be captured.
    """
    module: nn.Module = as_module(model)
    layers: list[ProductLayer] = []
    seen: set[str] = set()
    for node in capture(module, tuple(inputs)).gm.graph.nodes:
        counted = operator_macs_of(node)
        if counted is not None:
            filters = None if counted.kind == "matmul" else _filters(node)
            fresh = filters is not None and filters.name not in seen
            weights = filters.meta["val"].numel() if filters is not None and fresh else 0
            layers.append(ProductLayer(counted.layer, _kind(counted, node), counted.macs, int(weights)))
            seen.update([] if filters is None else [filters.name])
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Products(tuple(layers), max(parameters - sum(layer.weights for layer in layers), 0))


def _filters(node: fx.Node) -> fx.Node | None:
    """The constant that a convolution or linear layer multiplies by."""
    filters = node.args[1]
    return filters if isinstance(filters, fx.Node) and filters.op == "get_attr" else None


def _kind(counted: OperatorMacs, node: fx.Node) -> str:
    if node.target not in CONVOLUTIONS:
        return counted.kind if counted.kind in KINDS else "convolution"
    filters, channels = (arg.meta["val"].shape for arg in (node.args[1], node.args[0]))  # type: ignore[union-attr]
    # Filters are (K, C / groups, ...), transposed ones (C, K / groups, ...).
    alone = filters[1] == 1 and channels[-_rank(filters)] > 1 and node.meta["val"].shape[-_rank(filters)] > 1
    if alone:
        return "depthwise"
    return "pointwise" if all(size == 1 for size in filters[2:]) else "convolution"


def _rank(filters: Sequence[int]) -> int:
    """Dimensions of an image, channels first, batch aside."""
    return len(filters) - 1
