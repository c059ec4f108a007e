"""``haste::conv2d`` and ``haste::linear`` of the layers that were chosen become their operators of bfloat16."""

from __future__ import annotations

from torch import fx

from haste_compiler.graph.nodes import add_tensor, finish, get_tensor, is_call, layer_name, replace
from haste_compiler.methods.bfloat16.config import NAME, BFloat16Config
from haste_compiler.methods.bfloat16.ops.conv2d import BFloat16ConvCall
from haste_compiler.methods.bfloat16.ops.linear import BFloat16LinearCall
from haste_compiler.methods.bfloat16.ops.winograd import BFloat16WinogradCall
from haste_compiler.methods.bfloat16.sites import eligibility, sites
from haste_compiler.methods.bfloat16.weights import round_filters, round_transformed
from haste_compiler.methods.layers import OWNER
from haste_compiler.methods.prediction import CHOICE, Choice
from haste_compiler.methods.quantized.sites import geometry_of, plain_call, tile_sizes
from haste_compiler.methods.rounded_layer import PLAIN, Plain
from haste_compiler.ops.call import OpCall
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.ops.linear import LINEAR, LinearCall


def check_layers(gm: fx.GraphModule, config: BFloat16Config) -> None:
    """Check that every override matches a layer that could multiply in bfloat16.

    Raises:
        ConfigError: one doesn't.
    """
    layers = [node for node in gm.graph.nodes if is_call(node, CONV2D, LINEAR)]
    config.check_layers(layer_name(node) for node in layers if eligibility(node, BFloat16Config())[0])


def rewrite_bfloat16(gm: fx.GraphModule, config: BFloat16Config) -> fx.GraphModule:
    """Turn every layer that was chosen into one of bfloat16; without choices, every eligible one.

    The module gets buffers ``<layer>.rounded``, by Winograd's algorithm ``<layer>.transformed`` too. Where nothing was
    predicted, the largest tiles of that algorithm are taken that the configuration allows.

    Args:
        gm: a graph that ``extract_convs`` and ``extract_linears`` went over.
        config: which layers, and how.
    """
    for site in sites(gm, config):
        (node,) = site.nodes
        with gm.graph.inserting_before(node):
            made = _call(gm, node, _algorithm(node, site.config)).insert(gm, node)
        made.meta |= {"layer": layer_name(node), OWNER: NAME, PLAIN: Plain.of(gm, plain_call(node))}
        if CHOICE in node.meta:
            made.meta[CHOICE] = node.meta[CHOICE]
        replace(node, made)
    return finish(gm)


def _algorithm(node: fx.Node, config: BFloat16Config) -> int:
    choice: Choice | None = node.meta.get(CHOICE)
    if choice is not None and choice.prediction is not None:
        size: int = choice.prediction.setting
        return size
    return max(tile_sizes(geometry_of(node), config))


def _call(gm: fx.GraphModule, node: fx.Node, size: int) -> OpCall:
    """The call that computes a layer in bfloat16, by F(size × size) or, of size 0, as it is written."""
    plain = plain_call(node)
    weight, name = get_tensor(gm, plain.weight), layer_name(node)
    filters = add_tensor(gm, f"{name}.rounded", round_filters(weight), node)
    x, bias, residual, activation = plain.x, plain.bias, plain.residual, plain.activation
    if isinstance(plain, LinearCall):
        return BFloat16LinearCall(x, filters, bias, residual, activation)
    if size == 0:
        window = (plain.stride, plain.padding, plain.dilation, plain.groups)
        return BFloat16ConvCall(x, filters, bias, residual, *window, activation)
    transformed = add_tensor(gm, f"{name}.transformed", round_transformed(weight, size), node)
    return BFloat16WinogradCall(x, transformed, filters, bias, residual, plain.padding, activation)
