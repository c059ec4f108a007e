"""Finding the pass that changed what a graph computes, and the layer that it broke."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from haste_compiler.graph.capture import capture, evaluation_mode
from haste_compiler.graph.nodes import CONVOLUTIONS, copy_module, is_call, is_tensor, layer_name, shape_of, sole_user
from haste_compiler.methods.configs import ConfigLike, Configs
from haste_compiler.methods.pipeline import reshaping_steps
from haste_compiler.methods.replay import Layer, Replay, is_product
from haste_compiler.runtime.rewritten import Owner, rewritten
from haste_compiler.testing.elements import describe_difference
from haste_compiler.testing.layers import compare
from haste_compiler.validation.running import fresh_copy

CLOSE = 1e-3
"""Largest difference that folding and fusing may make, as a share of a tensor's largest value."""


@dataclass(frozen=True)
class BrokenPass:
    """A pass after which the graph computes something else, no method doing anything.

    Attributes:
        name: the pass; "capture" if the captured graph is wrong already.
        layer: the first layer whose result changed; empty where it is none's.
        difference: which elements, in words.
    """

    name: str
    layer: str
    difference: str

    def __str__(self) -> str:
        where = f" breaks {self.layer}" if self.layer else " breaks an operator that belongs to no layer"
        return f"pass {self.name}{where}: {self.difference}"


def find_broken_pass(
    model: nn.Module, inputs: Sequence[Any], config: ConfigLike | Configs, owned: Mapping[str, Owner]
) -> BrokenPass | None:
    """Find the first pass that changes what the graph computes; None: they all keep it.

    Every pass's graph, and every method's, is run in eager PyTorch with the methods' layers computed as if the methods
    did nothing: nothing but rounding may change. What a method changes by giving layers other shapes can't be undone:
    the graph that it returned is what later ones are held against.

    Args:
        model: the original.
        inputs: positional arguments of one call.
        config: what the network was compiled with.
        owned: of the layers that methods took, by name, the method and how it computes them.

    Raises:
        CaptureError: the model can't be captured.
    """
    graphs: list[tuple[str, fx.GraphModule]] = []
    with torch.no_grad(), evaluation_mode(model):
        expected = [leaf for leaf in tree_leaves(model(*fresh_copy(inputs))) if isinstance(leaf, Tensor)]
        graphs.append(("capture", capture(model, tuple(inputs)).gm))
        rewritten(model, inputs, config, owned, lambda name, gm: graphs.append((name, copy_module(gm))))
        tensors = [leaf for leaf in tree_leaves(tuple(inputs)) if isinstance(leaf, Tensor)]
        good: fx.GraphModule | None = None
        reshaping = reshaping_steps()
        for name, gm in graphs:
            found = [leaf for leaf in _Plain(gm).flat(fresh_copy(tensors)) if isinstance(leaf, Tensor)]
            if name in reshaping:
                expected, good = found, gm
                continue
            wrong = next((d for d in map(_difference, expected, found) if d), "")
            if len(found) != len(expected):
                wrong = f"it returns {len(found)} tensors instead of {len(expected)}"
            if wrong:
                layer, difference = ("", "") if good is None else _first_layer(good, gm, tensors)
                return BrokenPass(name, layer, difference or wrong)
            good = gm
    return None


class _Plain(Replay):
    """Runs a graph, captured or rewritten, as if the methods did nothing, and keeps the results of some nodes."""

    def __init__(self, gm: fx.GraphModule, keep: Collection[fx.Node] = ()) -> None:
        super().__init__(gm, Layer.plain)
        self._keep = keep
        self.kept: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._keep:
            self.kept[n] = value
        return value


def _first_layer(before: fx.GraphModule, after: fx.GraphModule, tensors: Sequence[Tensor]) -> tuple[str, str]:
    """The first layer of ``after`` whose result is none that its layer had in ``before``, and how it differs.

    In the older graph a layer's result may have been made step by step: of the convolution, its batch norm, the
    addition of a residual, the activation, any may be what the newer graph's layer returns.
    """
    chains = {layer_name(node): _chain(node) for node in before.graph.nodes if _is_layer(node)}
    mine = _Plain(before, {node for chain in chains.values() for node in chain})
    nodes = [node for node in after.graph.nodes if _is_layer(node)]
    theirs = _Plain(after, set(nodes))
    mine.flat(fresh_copy(tensors))
    theirs.flat(fresh_copy(tensors))
    for node in nodes:
        found = theirs.kept[node]
        candidates = [mine.kept[each] for each in chains.get(layer_name(node), ())]
        differences = [_difference(candidate, found) for candidate in candidates]
        if candidates and all(differences):
            # The end of the chain is the likeliest.
            return layer_name(node), differences[-1]
    return "", ""


def _is_layer(node: fx.Node) -> bool:
    return is_product(node) or is_call(node, *CONVOLUTIONS, torch.ops.aten.linear.default)


def _chain(node: fx.Node) -> list[fx.Node]:
    """A layer's node and those after it that alone read it and keep its shape, up to the next layer."""
    found = [node]
    while True:
        following = sole_user(found[-1])
        if following is None or not is_tensor(following) or _is_layer(following):
            return found
        if shape_of(following) != shape_of(node):
            return found
        found.append(following)


def _difference(expected: Tensor, found: Tensor) -> str:
    """How two tensors differ, in words; empty where they don't."""
    if expected.shape != found.shape:
        return f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
    differing = compare(expected, found, CLOSE)[0]
    return describe_difference(expected, found, differing) if differing.any() else ""
