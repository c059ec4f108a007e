"""``batch_norm(conv(x, W, b))`` -> ``conv(x, W', b')``, and the same for every other constant per-channel map."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from haste_compiler.graph.nodes import (
    CONVOLUTIONS,
    TRANSPOSED,
    add_tensor,
    argument,
    finish,
    get_tensor,
    insert_call,
    is_call,
    is_constant,
    is_tensor,
    layer_name,
    replace,
    shape_of,
    sole_user,
)

aten = torch.ops.aten

_FOLDED = (*CONVOLUTIONS, aten.linear.default)

MOMENTS = "moments"
"""Where the ``meta`` of a folded bias keeps the mean and variance, float64, (C,), of the outputs on training images."""

Affine = tuple[Tensor, Tensor]
"""Scale and shift of each channel, float64, (C,)."""


def fold_batch_norm(gm: fx.GraphModule) -> fx.GraphModule:
    """Fold constant per-channel maps into the convolution or linear layer before them.

    ``W'_k = s_k W_k`` and ``b'_k = s_k b_k + t_k`` for the map ``y_k -> s_k y_k + t_k``, computed in float64. Maps are
    batch norms with running statistics and ``mul``, ``div``, ``add`` and ``sub`` with a number or a constant of one
    value a channel, several in a row at once, also behind a ``permute``. A layer whose own result has another user is
    left as it is. Batch norms that remain become a multiplication and an addition (constants of shape (C, 1, 1)).
    """
    for node in list(gm.graph.nodes):
        if not node._erased and is_call(node, *_FOLDED):
            _fold_into(gm, node)
    for node in list(gm.graph.nodes):
        if is_call(node, aten.batch_norm.default):
            _spell_out(gm, node)
    return finish(gm)


def _fold_into(gm: fx.GraphModule, layer: fx.Node) -> None:
    weight = argument(layer, 1, "weight")
    bias = argument(layer, 2, "bias")
    if not is_constant(weight) or not (bias is None or is_constant(bias)):
        return
    groups = _groups_of_transposed(layer)
    scale = torch.ones(shape_of(weight)[0] if groups is None else groups * shape_of(weight)[1], dtype=torch.float64)
    shift = _load(gm, bias) if bias is not None else torch.zeros_like(scale)
    moments: Affine | None = None
    channel_dim = _channel_dim(layer)
    maps: list[fx.Node] = []
    current = layer
    while (user := sole_user(current)) is not None and is_tensor(user):
        if is_call(user, aten.permute.default):
            channel_dim = list(argument(user, 1, "dims")).index(channel_dim)
        elif (affine := _affine(gm, user, current, channel_dim)) is not None and affine[0].isfinite().all():
            scale, shift = scale * affine[0], shift * affine[0] + affine[1]
            if is_call(user, aten.batch_norm.default):
                moments = _trained_moments(gm, user)
            elif moments is not None:
                moments = moments[0] * affine[0] + affine[1], moments[1] * affine[0].square()
            maps.append(user)
        else:
            break
        current = user
    if not maps:
        return
    filters = _load(gm, weight)
    with gm.graph.inserting_before(layer):
        name = layer_name(layer)
        dtype = layer.meta["val"].dtype
        new_weight = add_tensor(gm, f"{name}.folded_weight", _scaled(filters, scale, groups).to(dtype), layer)
        new_bias = add_tensor(gm, f"{name}.folded_bias", shift.to(dtype), layer)
    if moments is not None:
        new_bias.meta[MOMENTS] = moments
    # Every other argument comes later, or by name.
    kwargs = {key: value for key, value in layer.kwargs.items() if key not in ("input", "weight", "bias")}
    layer.args = (argument(layer, 0, "input"), new_weight, new_bias, *layer.args[3:])
    layer.kwargs = kwargs
    for node in maps:
        source = _mapped(node)
        assert source is not None
        replace(node, source)


def _groups_of_transposed(layer: fx.Node) -> int | None:
    """The groups of a transposed convolution, whose filters are (C, K / groups, ...); None for any other layer."""
    if is_call(layer, aten.convolution.default) and argument(layer, 6, "transposed"):
        return int(argument(layer, 8, "groups"))
    return int(argument(layer, 6, "groups", 1)) if is_call(layer, *TRANSPOSED) else None


def _scaled(filters: Tensor, scale: Tensor, groups: int | None) -> Tensor:
    """Filters times one value for each output channel; for ``groups`` see ``_groups_of_transposed``."""
    if groups is None:
        return filters * scale.reshape(-1, *[1] * (filters.dim() - 1))
    split = filters.reshape(groups, -1, *filters.shape[1:])
    return (split * scale.reshape(groups, 1, -1, *[1] * (filters.dim() - 2))).reshape(filters.shape)


def _load(gm: fx.GraphModule, node: fx.Node) -> Tensor:
    return get_tensor(gm, node).cpu().double()


def _channel_dim(layer: fx.Node) -> int:
    rank = len(shape_of(layer))
    if is_call(layer, aten.linear.default):
        return rank - 1
    kernel = len(shape_of(argument(layer, 1, "weight"))) - 2
    return rank - kernel - 1


def _mapped(node: fx.Node) -> fx.Node | None:
    """The tensor that a map is applied to: its operand that is no constant."""
    return next((value for value in node.args[:2] if isinstance(value, fx.Node) and not is_constant(value)), None)


def _affine(gm: fx.GraphModule, node: fx.Node, source: fx.Node, dim: int) -> Affine | None:
    """Scale and shift of ``node`` seen as a map of ``source``'s channels (dimension ``dim``), or None if it is none."""
    if shape_of(node) != shape_of(source) or node.meta["val"].dtype != source.meta["val"].dtype:
        return None
    if is_call(node, aten.batch_norm.default):
        return _batch_norm(gm, node) if node.args[0] is source and dim == 1 else None
    if not is_call(node, aten.mul.Tensor, aten.div.Tensor, aten.add.Tensor, aten.sub.Tensor) or len(node.args) != 2:
        return None
    left, right = node.args
    other = right if left is source else left
    value = per_channel(gm, other, shape_of(source), dim)
    if value is None or not node.meta["val"].dtype.is_floating_point:
        return None
    one, zero = torch.ones_like(value), torch.zeros_like(value)
    alpha = float(node.kwargs.get("alpha", 1))  # type: ignore[arg-type]
    if is_call(node, aten.mul.Tensor):
        return value, zero
    if is_call(node, aten.div.Tensor):
        return (1 / value, zero) if left is source else None
    if is_call(node, aten.add.Tensor):
        return (one, alpha * value) if left is source else (alpha * one, value)
    return (one, -alpha * value) if left is source else (-alpha * one, value)


def per_channel(gm: fx.GraphModule, other: object, shape: tuple[int, ...], dim: int) -> Tensor | None:
    """``other`` as one float64 value a channel, (C,), if it is a number or a constant that varies by channel only."""
    if isinstance(other, (int, float)) and not isinstance(other, bool):
        return torch.full((shape[dim],), float(other), dtype=torch.float64)
    if not is_constant(other):
        return None
    value = _load(gm, other)
    if value.dim() > len(shape):
        return None
    value = value.reshape(*[1] * (len(shape) - value.dim()), *value.shape)
    if any(size != 1 for position, size in enumerate(value.shape) if position != dim):
        return None
    return value.reshape(-1).expand(shape[dim])


def _batch_norm(gm: fx.GraphModule, node: fx.Node) -> Affine | None:
    _, weight, bias, mean, var, training, _, eps, _ = node.args
    if training or not is_constant(mean) or not is_constant(var):
        return None
    if not all(value is None or is_constant(value) for value in (weight, bias)):
        return None
    assert isinstance(eps, float)
    scale = (_load(gm, var) + eps).rsqrt()
    if is_constant(weight):
        scale = scale * _load(gm, weight)
    shift = -_load(gm, mean) * scale
    if is_constant(bias):
        shift = shift + _load(gm, bias)
    return scale, shift


def _trained_moments(gm: fx.GraphModule, node: fx.Node) -> Affine:
    """Mean and variance of what a batch norm returned for the images that its statistics are of, by channel."""
    _, weight, bias, *_ = node.args
    channels = shape_of(node)[1]
    mean = _load(gm, bias) if is_constant(bias) else torch.zeros(channels, dtype=torch.float64)
    variance = _load(gm, weight).square() if is_constant(weight) else torch.ones(channels, dtype=torch.float64)
    return mean, variance


def _spell_out(gm: fx.GraphModule, node: fx.Node) -> None:
    affine = _batch_norm(gm, node)
    x = node.args[0]
    if affine is None or not is_tensor(x):
        return
    dtype, rank = node.meta["val"].dtype, len(shape_of(x))
    scale, shift = (value.to(dtype).reshape(-1, *[1] * (rank - 2)) for value in affine)
    with gm.graph.inserting_before(node):
        name = layer_name(node)
        scaled = insert_call(gm, aten.mul.Tensor, (x, add_tensor(gm, f"{name}.scale", scale, node)), node)
        shifted = insert_call(gm, aten.add.Tensor, (scaled, add_tensor(gm, f"{name}.shift", shift, node)), node)
    replace(node, shifted)
