"""A network is prepared for training with rounded weights and inputs, and converted to a plain one after it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from haste_compiler.errors import ConfigError
from haste_compiler.prom.config import FLOAT, INT8, TERNARY, PromConfig
from haste_compiler.prom.integers import EightBits, RoundedInput
from haste_compiler.prom.sites import LayerSite, layer_sites
from haste_compiler.prom.ternary import QUANTIZERS

_WEIGHT = "weight"


def prepare(model: nn.Module, example_inputs: Sequence[Any], config: PromConfig | None = None) -> nn.Module:
    """Make a network whose layers compute with rounded weights and inputs, and can be trained on.

    1×1 convolutions get ternary weights, other convolutions and linear layers 8 bits. Inputs are rounded by scales
    found in them, as method ``quantized`` rounds them when the network runs: by pixel for 1×1 convolutions, by row for
    linear layers, by an image's row for other convolutions. Depthwise convolutions read float32, as they do when
    compiled. Gradients go straight through. Batch norms stay: weights are rounded by output channel, so a norm that is
    folded later only scales what shares a scale.

    Source: Pointwise ternary, 8 bits elsewhere: arXiv 2505.03254 (PROM), its abstract.

    Args:
        model: a network of float32, trained or not; it is left as it is. Where a layer is called several times, its
            inputs count as nonnegative only if they are in all calls.
        example_inputs: its positional arguments, whose values don't matter.
        config: which layers, and how.

    Returns:
        A copy whose weights are parametrized (``torch.nn.utils.parametrize``); its parameters are the float32 weights.

    Raises:
        ConfigError: an override matches no layer, or the network has none.
        CaptureError: ``torch.export`` can't capture it.
    """
    config = config or PromConfig()
    sites = layer_sites(model, example_inputs)
    if not sites:
        raise ConfigError(f"{type(model).__name__} has no convolution and no linear layer as a module of its own")
    config.check_layers(list(sites))
    prepared = copy.deepcopy(model)
    for name, site in sites.items():
        kind, layer = _kind(name, site, config), prepared.get_submodule(name)
        if kind == FLOAT:
            continue
        weight = layer.get_parameter(_WEIGHT)
        rounding = QUANTIZERS[config.quantizer](weight) if kind == TERNARY else EightBits()
        parametrize.register_parametrization(layer, _WEIGHT, rounding)
        if site.axes is not None and config.input_bits is not None:
            layer.register_forward_pre_hook(RoundedInput(site.axes, site.nonnegative, config.input_bits))
    return prepared


def convert(prepared: nn.Module) -> nn.Module:
    """The plain network of a prepared one: ordinary layers whose weights are rounded, inputs are not.

    Compiled with ``precision="int8"`` it computes with the same integers: weights of 8 bits are found again, ternary
    ones too.

    Args:
        prepared: what ``prepare`` returned, trained; it is left as it is.

    Returns:
        A copy in evaluation mode, with the names and parameters of the original network.

    Raises:
        ConfigError: no layer is prepared.
    """
    names = quantized_layers(prepared)
    if not names:
        raise ConfigError(f"{type(prepared).__name__} has no prepared layer: convert takes what prepare returned")
    plain = copy.deepcopy(prepared)
    for name in names:
        _make_plain(plain.get_submodule(name))
    return plain.eval()


def quantized_layers(prepared: nn.Module) -> dict[str, str]:
    """What the weights of a prepared network's layers are, "ternary" or "int8", by qualified name; others have none."""
    found = {}
    for name, layer in prepared.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and parametrize.is_parametrized(layer, _WEIGHT):
            rounding = layer.get_submodule(f"parametrizations.{_WEIGHT}.0")
            found[name] = INT8 if isinstance(rounding, EightBits) else TERNARY
    return found


def _make_plain(layer: nn.Module) -> None:
    """Give a layer its rounded weights as a parameter, and the class and hooks that it had before."""
    weight = getattr(layer, _WEIGHT).detach().clone()
    # Copies share a class, which `remove_parametrizations` would change for the network that was copied, too.
    layer.__class__ = parametrize.type_before_parametrizations(layer)
    del layer.parametrizations
    layer.register_parameter(_WEIGHT, nn.Parameter(weight))
    for key, hook in list(layer._forward_pre_hooks.items()):
        if isinstance(hook, RoundedInput):
            del layer._forward_pre_hooks[key]


def _kind(name: str, site: LayerSite, config: PromConfig) -> str:
    return config.kind(name, TERNARY if site.pointwise or (site.linear and config.linear) else INT8)
