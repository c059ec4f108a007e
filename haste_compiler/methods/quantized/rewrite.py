"""``haste::conv2d`` and ``haste::linear`` of the layers that were chosen become their operators of integers."""

from __future__ import annotations

from torch import Tensor, fx

from haste_compiler.graph.nodes import add_tensor, finish, get_tensor, is_call, layer_name, replace
from haste_compiler.methods.layers import OWNER
from haste_compiler.methods.moments import channel_moments
from haste_compiler.methods.prediction import CHOICE, Choice
from haste_compiler.methods.quantized.algorithm import Algorithm
from haste_compiler.methods.quantized.attention import attention_call, is_attention
from haste_compiler.methods.quantized.config import NAME, QuantizedConfig
from haste_compiler.methods.quantized.correction import corrected_bias, direct_response, winograd_response
from haste_compiler.methods.quantized.ops.conv2d import QuantizedConvCall
from haste_compiler.methods.quantized.ops.linear import QuantizedLinearCall
from haste_compiler.methods.quantized.ops.winograd import QuantizedWinogradCall
from haste_compiler.methods.quantized.signs import is_nonnegative
from haste_compiler.methods.quantized.sites import algorithms, geometry_of, may_quantize, plain_call, sites
from haste_compiler.methods.quantized.ternary import ternary_filters
from haste_compiler.methods.quantized.weights import filters_for, quantize_transformed
from haste_compiler.methods.rounded_layer import PLAIN, Plain
from haste_compiler.ops.call import OpCall
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.ops.linear import LINEAR, LinearCall


def check_layers(gm: fx.GraphModule, config: QuantizedConfig) -> None:
    """Check that every override matches a layer that could be computed in integers.

    Raises:
        ConfigError: one doesn't.
    """
    layers = [node for node in gm.graph.nodes if is_call(node, CONV2D, LINEAR) or is_attention(node)]
    config.check_layers(layer_name(node) for node in layers if may_quantize(node))


def rewrite_quantized(gm: fx.GraphModule, config: QuantizedConfig) -> fx.GraphModule:
    """Turn every layer, and attention, that was chosen into one of integers; without choices, every eligible one.

    The module gets buffers ``<layer>.int8`` and ``<layer>.scale``, by Winograd's algorithm ``<layer>.transformed`` and
    ``<layer>.transformed_scale`` too, and where the mean of its input is known ``<layer>.corrected_bias``. Where
    nothing was predicted, the largest tiles of that algorithm are taken that the configuration allows.

    Args:
        gm: a graph that ``extract_convs`` and ``extract_linears`` went over.
        config: which layers, and how.
    """
    found = sites(gm, config)
    moments = channel_moments(gm) if found else {}
    # Asked before the layers that they read are replaced.
    read = [(node, x) for site in found for node in site.nodes if isinstance(x := node.args[0], fx.Node)]
    means = {node: moments[x][0] for node, x in read if x in moments}
    for site in found:
        (node,) = site.nodes
        with gm.graph.inserting_before(node):
            if is_attention(node):
                made = attention_call(node).insert(gm, node)
            else:
                made = _call(gm, node, _algorithm(gm, node, site.config), means.get(node)).insert(gm, node)
                made.meta[PLAIN] = Plain.of(gm, plain_call(node))
        made.meta |= {"layer": layer_name(node), OWNER: NAME}
        if CHOICE in node.meta:
            made.meta[CHOICE] = node.meta[CHOICE]
        replace(node, made)
    return finish(gm)


def _algorithm(gm: fx.GraphModule, node: fx.Node, config: QuantizedConfig) -> Algorithm:
    choice: Choice | None = node.meta.get(CHOICE)
    if choice is not None and choice.prediction is not None:
        return Algorithm.of(choice.prediction.setting)
    ternary = ternary_filters(get_tensor(gm, plain_call(node).weight)) is not None
    return max(algorithms(geometry_of(node), config, ternary=ternary))


def _call(gm: fx.GraphModule, node: fx.Node, algorithm: Algorithm, mean: Tensor | None) -> OpCall:
    """The call of integers that computes a layer; ``mean``: of each input channel, (C,), where it is known."""
    plain = plain_call(node)
    weight, name = get_tensor(gm, plain.weight), layer_name(node)
    size, bits, ternary = algorithm
    integers, factors = filters_for(weight, geometry_of(node), algorithm)
    filters, scale = add_tensor(gm, f"{name}.int8", integers, node), add_tensor(gm, f"{name}.scale", factors, node)
    x, bias, residual, activation = plain.x, plain.bias, plain.residual, plain.activation
    if mean is not None and not size:
        bias = _corrected(gm, node, direct_response(integers, factors), mean)
    if isinstance(plain, LinearCall):
        return QuantizedLinearCall(x, filters, scale, bias, residual, activation, is_nonnegative(x), bits, ternary)
    if size == 0:
        rest = (plain.stride, plain.padding, plain.dilation, plain.groups, activation, is_nonnegative(x), bits, ternary)
        return QuantizedConvCall(x, filters, scale, bias, residual, *rest)
    integers, factors = quantize_transformed(weight, size, narrow=algorithm.is_narrow)
    if mean is not None:
        bias = _corrected(gm, node, winograd_response(integers, factors, size), mean)
    transformed = add_tensor(gm, f"{name}.transformed", integers, node)
    factored = add_tensor(gm, f"{name}.transformed_scale", factors, node)
    return QuantizedWinogradCall(
        x, transformed, factored, filters, scale, bias, residual, plain.padding, activation, bits
    )


def _corrected(gm: fx.GraphModule, node: fx.Node, response: Tensor, mean: Tensor) -> fx.Node:
    """The bias that makes up for what rounding moves the mean of the outputs by; see ``corrected_bias``."""
    call = plain_call(node)
    weight, bias = Plain.of(gm, call)
    groups = 1 if isinstance(call, LinearCall) else call.groups
    corrected = corrected_bias(bias, response, weight, mean, groups)
    return add_tensor(gm, f"{layer_name(node)}.corrected_bias", corrected, node)
