"""The graph that a compiled network was made from, again: with each layer as its method's, whatever would be chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from haste_compiler.errors import InputError
from haste_compiler.graph.capture import capture
from haste_compiler.graph.nodes import layer_name
from haste_compiler.methods.configs import ConfigLike, Configs
from haste_compiler.methods.explanation import LayerChoice
from haste_compiler.methods.layers import ConvLayer
from haste_compiler.methods.method import Site
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.methods.prediction import Estimate, Prediction
from haste_compiler.passes.pipeline import Observer
from haste_compiler.runtime.artifact_load import LoadedModule
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.runtime.executable import Executable


class Owner(NamedTuple):
    """The method that took a layer, and how it computes it, as the method reads it."""

    method: str
    setting: Any = None


def rewritten(
    model: nn.Module,
    inputs: Sequence[Any],
    config: ConfigLike | Configs,
    owned: Mapping[str, Owner],
    observer: Observer | None = None,
) -> fx.GraphModule:
    """The graph that a model was compiled to, with each layer that ``owned`` names as its method's."""

    def predicted(site: Site, node: fx.Node) -> Prediction:
        # What was chosen then pays, whatever this machine would choose now.
        owner = owned.get(layer_name(node))
        taken = owner is not None and owner.method == site.method
        return Prediction(1.0, Estimate(0.0 if taken else 2.0, 0.0, 0.0), setting=owner.setting if owner else None)

    def predict(gm: fx.GraphModule, sites: Sequence[Site]) -> list[list[Prediction]]:
        return [[predicted(site, node) for node in site.nodes] for site in sites]

    return run_passes(capture(model, tuple(inputs)), config, observer, predict)


def owned_layers(compiled: CompiledModule | LoadedModule, inputs: Sequence[Any]) -> dict[str, Owner]:
    """Of the layers that methods took for some inputs, by name, the method and how it computes them."""
    return part_for(compiled, inputs)[2]


def part_for(
    compiled: CompiledModule | LoadedModule, inputs: Sequence[Any]
) -> tuple[Executable, list[Tensor], dict[str, Owner]]:
    """The code for some inputs, the tensors to run it on, and the layers of methods.

    Raises:
        InputError: the inputs are not what the network takes, or are empty.
    """
    if isinstance(compiled, LoadedModule):
        part, tensors, _ = compiled._for_inputs(inputs, {})
        return part.executable, tensors, _owned(choice for choice, _, _ in part.choices)
    made, tensors = compiled._for_inputs(inputs, {})
    if made is None:
        raise InputError("there are no layers to look at in an empty batch")
    return made.executable, tensors, _owned(made.layers)


def steered_values(executable: Executable) -> dict[str, tuple[float, ...]]:
    """The values that the methods' parameters have now, by the layers that they are for."""
    return {layer: executable.values(index) for index, each in enumerate(executable.records) for layer in each.layers}


def _owned(layers: Iterable[ConvLayer | LayerChoice]) -> dict[str, Owner]:
    return {layer.name: Owner(layer.method, layer.setting) for layer in layers if layer.method is not None}
