"""A dilated convolution's taps that never fall on the image -> none: 3×3 of dilation 36 on 14×14 pixels is 1×1."""

from __future__ import annotations

from typing import Any

from torch import fx

from haste_compiler.graph.nodes import (
    add_tensor,
    finish,
    get_tensor,
    insert_call,
    is_call,
    is_constant,
    replace,
    shape_of,
)
from haste_compiler.ops.conv2d import CONV2D


def drop_taps(gm: fx.GraphModule) -> fx.GraphModule:
    """Drop the outer rows and columns of dilated filters that read nothing but padding, and the padding with them."""
    for node in list(gm.graph.nodes):
        if is_call(node, CONV2D):
            _drop(gm, node)
    return finish(gm)


def _drop(gm: fx.GraphModule, node: fx.Node) -> None:
    args: list[Any] = list(node.args)
    x, weight, stride, padding, dilation = args[0], args[1], args[4], list(args[5]), list(args[6])
    if not is_constant(weight):
        return
    kernel = shape_of(weight)[2:]
    kept = []
    for axis in (0, 1):
        before, after = padding[2 * axis : 2 * axis + 2]
        sizes = shape_of(x)[2 + axis], shape_of(node)[2 + axis]
        first, end = _read(*sizes, kernel[axis], stride[axis], before, after, dilation[axis])
        dropped = first * dilation[axis], (kernel[axis] - end) * dilation[axis]
        padding[2 * axis : 2 * axis + 2] = before - dropped[0], after - dropped[1]
        dilation[axis] = dilation[axis] if end - first > 1 else 1
        kept.append(slice(first, end))
    if kept == [slice(0, size) for size in kernel]:
        return
    filters = get_tensor(gm, weight)
    # PyTorch multiplies them with the padding's zeros.
    if not filters.isfinite().all():
        return
    with gm.graph.inserting_before(node):
        args[1] = add_tensor(gm, f"{weight.target}_on_image", filters[:, :, kept[0], kept[1]], weight)
        args[5], args[6] = padding, dilation
        replace(node, insert_call(gm, CONV2D, tuple(args), node))


def _read(size: int, outputs: int, taps: int, stride: int, before: int, after: int, dilation: int) -> tuple[int, int]:
    """First and last + 1 of the taps to keep along an axis, all of them where it isn't dilated."""

    def on_image(tap: int) -> bool:
        return any(0 <= output * stride + tap * dilation - before < size for output in range(outputs))

    first, end = 0, taps
    if dilation == 1:
        return first, end
    while first + 1 < end and (first + 1) * dilation <= before and not on_image(first):
        first += 1
    while end - 1 > first and (taps - end + 1) * dilation <= after and not on_image(end - 1):
        end -= 1
    return first, end
