"""One way to write each thing: no-ops dropped, constants computed, many spellings brought into one."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from haste_compiler.graph.nodes import (
    add_tensor,
    argument,
    example_size,
    finish,
    get_tensor,
    insert_call,
    is_call,
    is_constant,
    is_tensor,
    refuse_dynamic,
    replace,
    reshape_sizes,
    shape_of,
)

aten = torch.ops.aten


def canonicalize(gm: fx.GraphModule) -> fx.GraphModule:
    """Bring a captured graph into the plain form that the other passes and the code generator expect.

    - Dropped: dropout, identity, clones, detaching, assertions, conversions to the same dtype, reshapes and pooling to
      the same size.
    - Computed: whatever depends on constants only.
    - Made plain: negative positions, mixed dtypes, ``alpha`` of additions and ``scale`` of attention, norms without
      weights.
    - Several spellings of one operator become one: ``view`` -> ``reshape``, ``transpose`` and ``t`` -> ``permute``,
      ``chunk`` and ``split`` -> ``slice``, ``unbind`` -> ``select``, ``hardtanh`` -> ``relu6`` or ``clamp``,
      ``x * sigmoid(x)`` -> ``silu``; dimensions count from the front.
    """
    for node in list(gm.graph.nodes):
        if node.op != "call_function" or node._erased:
            continue
        if node.target in _CHECKS or _is_assertion(node):
            gm.graph.erase_node(node)
        elif _is_no_op(node):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            replace(node, source)
        elif _is_computable(node):
            _compute(gm, node)
        elif node.target in _RULES:
            with gm.graph.inserting_before(node):
                _RULES[node.target](gm, node)
    return finish(gm)


_CHECKS = {aten._assert_tensor_metadata.default, aten._assert_async.msg, aten._assert_scalar.default}
_ALWAYS_NO_OPS = {
    aten.contiguous.default,
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.lift_fresh.default,
    aten.resolve_conj.default,
    aten.resolve_neg.default,
}
_DROPOUTS = {
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
}
_CONVERSIONS = {
    aten.to.dtype,
    aten.to.device,
    aten.to.other,
    aten.to.dtype_layout,
    aten.type_as.default,
    aten._to_copy.default,
}
_SAME_SHAPE_NO_OPS = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.expand.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    # Pooling to the size that is there already averages single pixels.
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_max_pool2d.default,
}


def _is_assertion(node: fx.Node) -> bool:
    return not node.users and "assert" in str(node.target)


def _is_no_op(node: fx.Node) -> bool:
    if not node.args or not is_tensor(node.args[0]) or not is_tensor(node):
        return False
    before, after = node.args[0].meta["val"], node.meta["val"]
    if node.target in _DROPOUTS:
        return not argument(node, 2, "train", False)
    if node.target in _ALWAYS_NO_OPS:
        return True
    if node.target in _CONVERSIONS:
        return before.dtype == after.dtype and before.device == after.device
    return node.target in _SAME_SHAPE_NO_OPS and before.shape == after.shape


def _is_computable(node: fx.Node) -> bool:
    if not is_tensor(node) or not isinstance(node.target, torch._ops.OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded in node.target.tags or node.target._schema.is_mutable:
        return False
    return all(is_constant(value) for value in node.all_input_nodes)


def _compute(gm: fx.GraphModule, node: fx.Node) -> None:
    assert callable(node.target)

    def load(value: fx.Node) -> Tensor:
        return get_tensor(gm, value)

    with torch.no_grad():
        value = node.target(*fx.map_arg(node.args, load), **fx.map_arg(node.kwargs, load))
    with gm.graph.inserting_before(node):
        constant = add_tensor(gm, f"{node.name}_value", value.clone(), node)
    replace(node, constant)


def _call(gm: fx.GraphModule, node: fx.Node, target: Callable[..., Any], *args: Any) -> None:
    replace(node, insert_call(gm, target, args, node))


def _reshape(gm: fx.GraphModule, node: fx.Node) -> None:
    # The shape is fixed, but for a dynamic batch: -1 is written out. A view may not be possible any more where a copy
    # was dropped.
    if reshape_sizes(node).count(-1) > 1:
        refuse_dynamic(node)
    _call(gm, node, aten.reshape.default, node.args[0], reshape_sizes(node))


def _transpose(gm: fx.GraphModule, node: fx.Node) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    order = list(range(len(shape_of(source))))
    first, second = (argument(node, 1, "dim0"), argument(node, 2, "dim1")) if len(node.args) > 1 else (0, 1)
    if len(order) > 1:
        order[first], order[second] = order[second], order[first]
    node.target, node.args = aten.permute.default, (source, order)
    _permute(gm, node)


def _permute(gm: fx.GraphModule, node: fx.Node) -> None:
    source, rank = node.args[0], len(shape_of(node))
    assert isinstance(source, fx.Node)
    order = [dim % rank for dim in argument(node, 1, "dims")]
    if is_call(source, aten.permute.default):
        inner = [dim % rank for dim in argument(source, 1, "dims")]
        source, order = source.args[0], [inner[dim] for dim in order]
    assert isinstance(source, fx.Node)
    if order == list(range(rank)):
        replace(node, source)
    else:
        _call(gm, node, aten.permute.default, source, order)


def _pieces(node: fx.Node, size: int, dim: int) -> list[int]:
    """Where the pieces of a ``chunk`` or a ``split`` end."""
    ends, total = [], 0
    for value in node.meta["val"]:
        total += example_size(value.shape[dim])
        ends.append(total)
    assert total == size
    return ends


def _split(gm: fx.GraphModule, node: fx.Node) -> None:
    source = node.args[0]
    users = list(node.users)
    if not is_tensor(source) or not all(is_call(user, operator.getitem) for user in users):
        return
    dim = argument(node, 2, "dim", 0) % len(shape_of(source))
    ends = _pieces(node, shape_of(source)[dim], dim)
    for user in users:
        index = user.args[1]
        assert isinstance(index, int)
        index %= len(ends)
        start = ends[index - 1] if index else 0
        _call(gm, user, aten.slice.Tensor, source, dim, start, ends[index])
    gm.graph.erase_node(node)


def _unbind(gm: fx.GraphModule, node: fx.Node) -> None:
    source = node.args[0]
    users = list(node.users)
    if not is_tensor(source) or not all(is_call(user, operator.getitem) for user in users):
        return
    dim = argument(node, 1, "dim", 0) % len(shape_of(source))
    for user in users:
        index = user.args[1]
        assert isinstance(index, int)
        _call(gm, user, aten.select.int, source, dim, index % shape_of(source)[dim])
    gm.graph.erase_node(node)


def _slice(gm: fx.GraphModule, node: fx.Node) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    dim = argument(node, 1, "dim", 0) % len(shape_of(source))
    size, step = shape_of(source)[dim], argument(node, 4, "step", 1)
    if any(isinstance(argument(node, position, name), fx.Node) for position, name in ((2, "start"), (3, "end"))):
        refuse_dynamic(node)
    start, end, _ = slice(argument(node, 2, "start"), argument(node, 3, "end")).indices(size)
    if (start, end, step) == (0, size, 1):
        replace(node, source)
    else:
        _call(gm, node, aten.slice.Tensor, source, dim, start, end, step)


def _cat(gm: fx.GraphModule, node: fx.Node) -> None:
    tensors, rank = list(argument(node, 0, "tensors")), len(shape_of(node))
    if len(tensors) == 1:
        replace(node, tensors[0])
    elif all(len(shape_of(tensor)) == rank for tensor in tensors):
        _call(gm, node, aten.cat.default, tensors, argument(node, 1, "dim", 0) % rank)


def _mean(gm: fx.GraphModule, node: fx.Node) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if argument(node, 3, "dtype") is not None:
        return
    rank = len(shape_of(source))
    dims = argument(node, 1, "dim") if node.target is aten.mean.dim else None
    dims = sorted(dim % rank for dim in dims) if dims else list(range(rank))
    _call(gm, node, aten.mean.dim, source, dims, bool(argument(node, 2, "keepdim", False)))


def _clamp(gm: fx.GraphModule, node: fx.Node) -> None:
    low, high = argument(node, 1, "min"), argument(node, 2, "max")
    _clamped(gm, node, low, high)


def _clamp_min(gm: fx.GraphModule, node: fx.Node) -> None:
    _clamped(gm, node, argument(node, 1, "min"), None)


def _clamp_max(gm: fx.GraphModule, node: fx.Node) -> None:
    _clamped(gm, node, None, argument(node, 1, "max"))


def _hardtanh(gm: fx.GraphModule, node: fx.Node) -> None:
    _clamped(gm, node, argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0))


def _clamped(gm: fx.GraphModule, node: fx.Node, low: float | None, high: float | None) -> None:
    # Whole numbers are clamped by other rules of type promotion.
    if not node.meta["val"].dtype.is_floating_point:
        return
    low = None if low == -math.inf else low
    high = None if high == math.inf else high
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if (low, high) == (0, None):
        _call(gm, node, aten.relu.default, source)
    elif (low, high) == (0, 6):
        _call(gm, node, aten.relu6.default, source)
    elif (low, high) == (None, None):
        replace(node, source)
    else:
        _call(gm, node, aten.clamp.default, source, low, high)


def _select(gm: fx.GraphModule, node: fx.Node) -> None:
    source, dim, index = node.args
    assert isinstance(source, fx.Node) and isinstance(dim, int) and isinstance(index, int)
    shape = shape_of(source)
    dim %= len(shape)
    if index < 0 and isinstance(source.meta["val"].shape[dim], torch.SymInt):
        refuse_dynamic(node)
    if (dim, index) != (node.args[1], index % shape[dim]):
        _call(gm, node, aten.select.int, source, dim, index % shape[dim])


def _index(gm: fx.GraphModule, node: fx.Node) -> None:
    source, indices = node.args
    assert isinstance(source, fx.Node) and isinstance(indices, (list, tuple))
    plain: list[Any] = []
    for axis, (size, index) in enumerate(zip(shape_of(source), indices, strict=False)):
        if is_tensor(index) and isinstance(source.meta["val"].shape[axis], torch.SymInt):
            refuse_dynamic(node)
        if is_constant(index) and bool((get_tensor(gm, index) < 0).any()):
            index = add_tensor(gm, f"{node.name}_index", get_tensor(gm, index) % size, node)
        elif is_tensor(index) and not is_constant(index) and index.meta["val"].dtype in (torch.int32, torch.int64):
            index = insert_call(gm, aten.remainder.Scalar, (index, size), node)
        plain.append(index)
    if plain != list(indices):
        _call(gm, node, aten.index.Tensor, source, plain)


def _arithmetic(gm: fx.GraphModule, node: fx.Node) -> None:
    """Operands take the result's dtype; ``a + alpha * b`` becomes an addition of a product."""
    dtype, alpha = node.meta["val"].dtype, node.kwargs.get("alpha", 1)
    operands = list(node.args[:2])
    if alpha != 1 and isinstance(alpha, (int, float)):
        operands[1] = _times(gm, node, operands[1], alpha)
    for position, operand in enumerate(operands):
        if is_tensor(operand) and operand.meta["val"].dtype != dtype:
            operands[position] = insert_call(gm, aten.to.dtype, (operand, dtype), node)
    if operands != list(node.args[:2]):
        node.args = (*operands, *node.args[2:])
        node.kwargs = {name: value for name, value in node.kwargs.items() if name != "alpha"}
    if node.target is aten.mul.Tensor:
        _mul(gm, node)


def _times(gm: fx.GraphModule, node: fx.Node, operand: Any, factor: float) -> Any:
    if not isinstance(operand, fx.Node):
        return operand * factor
    if is_constant(operand):
        return add_tensor(gm, f"{node.name}_scaled", get_tensor(gm, operand) * factor, node)
    return insert_call(gm, aten.mul.Tensor, (operand, factor), node)


def _attention(gm: fx.GraphModule, node: fx.Node) -> None:
    scale, query = node.kwargs.get("scale"), node.args[0]
    if scale is None or not is_tensor(query):
        return
    assert isinstance(scale, (int, float))
    scaled = insert_call(gm, aten.mul.Tensor, (query, scale * math.sqrt(shape_of(query)[-1])), node)
    node.args = (scaled, *node.args[1:])
    node.kwargs = {name: value for name, value in node.kwargs.items() if name != "scale"}


def _instance_norm(gm: fx.GraphModule, node: fx.Node) -> None:
    """Over each channel by itself: a group norm of groups of one; with given statistics a batch norm."""
    x, weight, bias, mean, var, by_input, momentum, eps, _ = node.args
    if not is_tensor(x):
        return
    if not by_input:
        _call(gm, node, aten.batch_norm.default, x, weight, bias, mean, var, False, momentum, eps, False)
        return
    channels = shape_of(x)[1]
    affine = _affine(gm, node, weight, bias, (channels,))
    _call(gm, node, aten.group_norm.default, x, channels, *affine, eps, False)


def _group_norm(gm: fx.GraphModule, node: fx.Node) -> None:
    x, groups = node.args[:2]
    weight, bias, eps = argument(node, 2, "weight"), argument(node, 3, "bias"), argument(node, 4, "eps", 1e-5)
    if is_tensor(x) and (weight is None or bias is None):
        affine = _affine(gm, node, weight, bias, (shape_of(x)[1],))
        _call(gm, node, aten.group_norm.default, x, groups, *affine, eps, False)


def _layer_norm(gm: fx.GraphModule, node: fx.Node) -> None:
    x, shape = node.args[:2]
    weight, bias, eps = argument(node, 2, "weight"), argument(node, 3, "bias"), argument(node, 4, "eps", 1e-5)
    if is_tensor(x) and (weight is None or bias is None):
        affine = _affine(gm, node, weight, bias, tuple(shape))  # type: ignore[arg-type]
        _call(gm, node, aten.layer_norm.default, x, shape, *affine, eps, False)


def _affine(gm: fx.GraphModule, node: fx.Node, weight: Any, bias: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Weight and bias of a norm, ones and zeros where it has none."""
    dtype = node.meta["val"].dtype
    if weight is None:
        weight = add_tensor(gm, f"{node.name}_ones", torch.ones(shape, dtype=dtype), node)
    if bias is None:
        bias = add_tensor(gm, f"{node.name}_zeros", torch.zeros(shape, dtype=dtype), node)
    return weight, bias


def _mul(gm: fx.GraphModule, node: fx.Node) -> None:
    for x, gate in (node.args, node.args[::-1]):
        if is_call(gate, aten.sigmoid.default) and gate.args[0] is x:
            _call(gm, node, aten.silu.default, x)
            return


def _rsub(gm: fx.GraphModule, node: fx.Node) -> None:
    x, other = node.args[:2]
    alpha = argument(node, 2, "alpha", 1)
    if isinstance(other, fx.Node):
        _call(gm, node, aten.sub.Tensor, other, x if alpha == 1 else _times(gm, node, x, alpha))
    else:
        _call(gm, node, aten.add.Tensor, _times(gm, node, x, -alpha), other)


def _native_batch_norm(gm: fx.GraphModule, node: fx.Node) -> None:
    x, weight, bias, mean, var, momentum, eps = node.args
    _call_for_first(gm, node, aten.batch_norm.default, x, weight, bias, mean, var, False, momentum, eps, False)


def _max_pool(gm: fx.GraphModule, node: fx.Node) -> None:
    _call_for_first(gm, node, aten.max_pool2d.default, *node.args)


def _adaptive_max_pool(gm: fx.GraphModule, node: fx.Node) -> None:
    """A max pooling, where the input's size is a multiple of the output's and nobody asks for positions."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    pairs = list(zip(shape_of(source)[-2:], node.meta["val"][0].shape[-2:], strict=True))
    if not any(size % new for size, new in pairs):
        _call_for_first(gm, node, aten.max_pool2d.default, source, [size // new for size, new in pairs])


def _call_for_first(gm: fx.GraphModule, node: fx.Node, target: Callable[..., Any], *args: Any) -> None:
    """Take ``target`` instead of a call with several results, of which nobody asks for another than the first."""
    users = list(node.users)
    if all(is_call(user, operator.getitem) and user.args[1] == 0 for user in users):
        for user in users:
            _call(gm, user, target, *args)
        gm.graph.erase_node(node)


def _amax(gm: fx.GraphModule, node: fx.Node) -> None:
    """Over height and width of (N, C, H, W): a max pooling."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    rank = len(shape_of(source))
    if rank == 4 and sorted(dim % rank for dim in argument(node, 1, "dim", ())) == [2, 3]:
        pooled = insert_call(gm, aten.max_pool2d.default, (source, list(shape_of(source)[2:])), node)
        _call(gm, node, aten.reshape.default, pooled, reshape_sizes(node))


def _true_divide(gm: fx.GraphModule, node: fx.Node) -> None:
    node.target = aten.div.Tensor
    _arithmetic(gm, node)


_RULES: dict[Any, Callable[[fx.GraphModule, fx.Node], None]] = {
    aten.view.default: _reshape,
    aten._unsafe_view.default: _reshape,
    aten.reshape.default: _reshape,
    aten.view_as.default: _reshape,
    aten.reshape_as.default: _reshape,
    aten.unflatten.int: _reshape,
    aten.transpose.int: _transpose,
    aten.swapaxes.default: _transpose,
    aten.t.default: _transpose,
    aten.permute.default: _permute,
    aten.chunk.default: _split,
    aten.split.Tensor: _split,
    aten.split.sizes: _split,
    aten.split_with_sizes.default: _split,
    aten.unbind.int: _unbind,
    aten.slice.Tensor: _slice,
    aten.cat.default: _cat,
    aten.concat.default: _cat,
    aten.concatenate.default: _cat,
    aten.mean.dim: _mean,
    aten.mean.default: _mean,
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp_min,
    aten.clamp_max.default: _clamp_max,
    aten.hardtanh.default: _hardtanh,
    aten.select.int: _select,
    aten.index.Tensor: _index,
    aten.add.Tensor: _arithmetic,
    aten.sub.Tensor: _arithmetic,
    aten.mul.Tensor: _arithmetic,
    aten.div.Tensor: _arithmetic,
    aten.true_divide.Tensor: _true_divide,
    aten.adaptive_max_pool2d.default: _adaptive_max_pool,
    aten.amax.default: _amax,
    aten.scaled_dot_product_attention.default: _attention,
    aten.instance_norm.default: _instance_norm,
    aten.group_norm.default: _group_norm,
    aten.layer_norm.default: _layer_norm,
    aten.rsub.Scalar: _rsub,
    aten.rsub.Tensor: _rsub,
    aten._native_batch_norm_legit_no_training.default: _native_batch_norm,
    aten.max_pool2d_with_indices.default: _max_pool,
}
