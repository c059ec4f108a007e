"""Convolutions: modules with weights where these are constants, so that layers have names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from haste_compiler.onnx.operators.padding import explicit, padded, same_split
from haste_compiler.onnx.site import Operator, Site, integers
from haste_compiler.onnx.values import Result, Unsupported

_PLAIN: dict[int, tuple[type[nn.Module], Callable[..., Tensor]]] = {
    1: (nn.Conv1d, F.conv1d),
    2: (nn.Conv2d, F.conv2d),
    3: (nn.Conv3d, F.conv3d),
}
_TRANSPOSED: dict[int, tuple[type[nn.Module], Callable[..., Tensor]]] = {
    1: (nn.ConvTranspose1d, F.conv_transpose1d),
    2: (nn.ConvTranspose2d, F.conv_transpose2d),
    3: (nn.ConvTranspose3d, F.conv_transpose3d),
}


def _kernel(at: Site) -> list[int]:
    weight, shape = at.known(1), at.attribute("kernel_shape")
    if weight is not None:
        return [int(size) for size in weight.array.shape[2:]]
    inferred = at.shapes[1]
    if not shape and inferred is not None and all(isinstance(size, int) for size in inferred):
        shape = inferred[2:]
    if not shape:
        raise Unsupported("the size of its filters isn't known")
    return [int(size) for size in shape]


def _conv(at: Site) -> Result:
    kernel = _kernel(at)
    axes = len(kernel)
    if axes not in _PLAIN:
        raise Unsupported(f"over {axes} axes")
    strides, dilations = integers(at.attribute("strides"), [1] * axes), integers(at.attribute("dilations"), [1] * axes)
    groups = at.attribute("group", 1)
    x, padding = padded(at, at.tensor(0), kernel, strides, dilations)
    module, function = _PLAIN[axes]
    weight, bias = at.known(1), at.known(2)
    if weight is None or (bias is None and at.value(2) is not None):
        return at.call(function, x, at.tensor(1), at.optional(2), strides, padding, dilations, groups)
    outputs, inputs = weight.array.shape[:2]
    made = _empty(
        module, inputs * groups, outputs, kernel,
        stride=tuple(strides), padding=tuple(padding), dilation=tuple(dilations), groups=groups, bias=bias is not None,
    )  # fmt: skip
    return at.layer(_filled(at, made), x)


def _empty(module: type[nn.Module], inputs: int, outputs: int, kernel: Sequence[int], **how: Any) -> nn.Module:
    """A module without memory of its own: its weights are set next."""
    return module(inputs, outputs, tuple(kernel), device="meta", **how)


def _filled(at: Site, module: nn.Module) -> nn.Module:
    weight, bias = at.known(1), at.known(2)
    assert weight is not None
    module.weight = at.weight(weight)
    if bias is not None:
        module.bias = at.weight(bias)
    return module


def _conv_transpose(at: Site) -> Result:
    kernel = _kernel(at)
    axes = len(kernel)
    if axes not in _TRANSPOSED:
        raise Unsupported(f"over {axes} axes")
    strides, dilations = integers(at.attribute("strides"), [1] * axes), integers(at.attribute("dilations"), [1] * axes)
    extra, groups = integers(at.attribute("output_padding"), [0] * axes), at.attribute("group", 1)
    begins, ends, extra = _cut(at, kernel, strides, dilations, extra)
    padding = [max(min(begin, end), 0) for begin, end in zip(begins, ends, strict=True)]
    x = at.tensor(0)
    module, function = _TRANSPOSED[axes]
    weight, bias = at.known(1), at.known(2)
    if weight is None or (bias is None and at.value(2) is not None):
        y = at.call(function, x, at.tensor(1), at.optional(2), strides, padding, extra, groups, dilations)
    else:
        inputs, outputs = weight.array.shape[:2]
        made = _empty(
            module, inputs, outputs * groups, kernel, stride=tuple(strides), padding=tuple(padding),
            output_padding=tuple(extra), dilation=tuple(dilations), groups=groups, bias=bias is not None,
        )  # fmt: skip
        y = at.layer(_filled(at, made), x)
    rest = [(begin - pad, end - pad) for begin, end, pad in zip(begins, ends, padding, strict=True)]
    return at.call(_crop, y, rest) if any(map(any, rest)) else y


def _cut(
    at: Site, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], extra: list[int]
) -> tuple[list[int], list[int], list[int]]:
    """What is cut off before and behind, and added behind, on each axis."""
    mode, shape, axes = at.attribute("auto_pad", "NOTSET"), at.attribute("output_shape"), len(kernel)
    same = mode in ("SAME_UPPER", "SAME_LOWER")
    if not same and not shape:
        pads = explicit(at, kernel, strides, dilations) or []
        return pads[:axes], pads[axes:], extra
    reach = [dilation * (size - 1) + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    if shape:
        sizes = (at.shapes[0] or ())[2:]
        if len(sizes) != axes or not all(isinstance(size, int) for size in sizes):
            raise Unsupported("with output_shape, for images of any size")
        full = [(int(size or 0) - 1) * stride for size, stride in zip(sizes, strides, strict=True)]
        wanted = shape[-axes:]
    else:
        # size·stride of outputs: the size itself falls out.
        full, wanted = [-stride for stride in strides], [0] * axes
    totals = [start + window + more - end for start, window, more, end in zip(full, reach, extra, wanted, strict=True)]
    extra = [more + max(-total, 0) for more, total in zip(extra, totals, strict=True)]
    pads = same_split([max(total, 0) for total in totals], mode == "SAME_UPPER")
    return pads[:axes], pads[axes:], extra


def _crop(x: Tensor, cuts: Sequence[tuple[int, int]]) -> Tensor:
    for axis, (begin, end) in enumerate(cuts, 2):
        x = x.narrow(axis, begin, x.shape[axis] - begin - end)
    return x


def _fold(at: Site) -> Result:
    image, block = at.numbers(1), at.numbers(2)
    axes = len(block)
    pads = integers(at.attribute("pads"), [0] * (2 * axes))
    if axes != 2 or pads[:2] != pads[2:]:
        raise Unsupported(f"over {axes} axes, padded by {pads}")
    how = (integers(at.attribute(name), [1, 1]) for name in ("dilations", "strides"))
    dilations, strides = how
    return at.call(F.fold, at.tensor(0), image, block, dilations, pads[:2], strides)


OPERATORS: dict[str, Operator] = {"Conv": _conv, "ConvTranspose": _conv_transpose, "Col2Im": _fold}
