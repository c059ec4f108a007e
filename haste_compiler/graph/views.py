"""Tensors that are another's memory in another order: kernels read and write them where they lie, by strides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.node import map_arg

from haste_compiler.graph.nodes import argument, is_call, is_tensor, sole_user

aten = torch.ops.aten

_NHWC = (0, 2, 3, 1)
_NCHW = (0, 3, 1, 2)

VIEWS = (
    aten.reshape.default,
    aten.permute.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.flatten.using_ints,
    aten.unsqueeze.default,
    aten.squeeze.dim,
)
"""Operators whose values may be their input's memory."""


@dataclass(frozen=True)
class View:
    """Where a tensor's elements lie in another's memory, counted in elements.

    Attributes:
        base: the node whose memory it is.
        strides: from one element to the next along each axis.
        offset: of the first element.
    """

    base: fx.Node
    strides: tuple[int, ...]
    offset: int = 0


def contiguous_strides(sizes: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor without gaps; none depends on the size of the first axis, which may be the batch."""
    return tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes)))


def view_of(node: fx.Node, is_stored: Callable[[fx.Node], bool], is_nhwc: Callable[[fx.Node], bool]) -> View | None:
    """The tensor that a tensor is a view of, as far up as operators only look at memory in another order.

    Args:
        node: the tensor.
        is_stored: whether a tensor is in memory already; beyond it nobody need look.
        is_nhwc: whether an image is stored as NHWC.

    Returns:
        The view; of the node itself where no operator of these made it. None where one did that has to copy.
    """
    chain = [node]
    while not is_stored(chain[-1]) and is_call(chain[-1], *VIEWS) and is_tensor(source := chain[-1].all_input_nodes[0]):
        chain.append(source)
    copies = not is_stored(node) and is_call(node, *VIEWS)
    while len(chain) > copies:
        view = _seen(chain, is_nhwc=is_nhwc(chain[-1]))
        if view is not None:
            return view
        chain.pop()
    return None


def _seen(chain: Sequence[fx.Node], *, is_nhwc: bool) -> View | None:
    """The first of ``chain`` as a view of the last; None if it isn't, or if its strides depend on the batch."""
    *calls, base = chain
    memory = value = _fresh(base.meta["val"], is_nhwc=is_nhwc)
    for call in reversed(calls):
        with _mode(memory):
            value = _again(call, value)
    return _view(base, memory, value)


def _again(call: fx.Node, value: Tensor) -> Tensor:
    """A call with another value for the tensor that it reads."""
    args = map_arg(call.args, lambda source: value if is_tensor(source) else source.meta["val"])
    result = call.target(*args, **call.kwargs)  # type: ignore[operator]
    assert isinstance(result, Tensor)
    return result


def _view(base: fx.Node, memory: Tensor, value: Tensor) -> View | None:
    """``value`` as a view of ``memory``, that of ``base``; None if it isn't, or if its strides depend on the batch."""
    places = (*value.stride(), value.storage_offset())
    shared = value.untyped_storage()._cdata == memory.untyped_storage()._cdata
    if not shared or any(isinstance(place, torch.SymInt) for place in places):
        return None
    return View(base, tuple(value.stride()), int(value.storage_offset()))


def _fresh(like: Tensor, *, is_nhwc: bool) -> Tensor:
    """A tensor of the same shape without a gap in its memory."""
    with _mode(like):
        if is_nhwc:
            stored = torch.empty([like.shape[axis] for axis in _NHWC], dtype=like.dtype)
            return stored.permute(_NCHW)
        return torch.empty(like.shape, dtype=like.dtype)


def _mode(value: Tensor) -> FakeTensorMode:
    assert isinstance(value, FakeTensor)
    return value.fake_mode


def written_as(node: fx.Node) -> View | None:
    """Where to write a tensor so that what it is moved to needs no copy.

    Returns:
        The node farthest down whose value has the same elements in another order and is all that reads ``node``, and
        where in its memory, without a gap, each element of ``node`` lies; ``node`` itself where there is none. None if
        that depends on the batch.
    """
    found = _view(node, memory := _fresh(node.meta["val"], is_nhwc=False), memory)
    for calls in _moved(node):
        view = _inverse(calls)
        if view is None:
            break
        # What only changes the shape is a view already.
        if is_call(calls[-1], aten.permute.default):
            found = view
    return found


def _moved(node: fx.Node) -> Iterator[list[fx.Node]]:
    """The calls that one after the other are all that reads ``node``, more and more of them."""
    calls: list[fx.Node] = []
    user = sole_user(node)
    while is_call(user, aten.permute.default, aten.reshape.default):
        calls.append(user)
        yield calls
        user = sole_user(user)


def _inverse(calls: Sequence[fx.Node]) -> View | None:
    """What the first of ``calls`` reads as a view of the last one's value."""
    memory = value = _fresh(calls[-1].meta["val"], is_nhwc=False)
    for call in reversed(calls):
        shape = call.all_input_nodes[0].meta["val"].shape
        with _mode(memory):
            if is_call(call, aten.permute.default):
                order: list[int] = [axis % len(shape) for axis in argument(call, 1, "dims")]
                value = value.permute([order.index(axis) for axis in range(len(order))])
            else:
                value = value.reshape(shape)
    return _view(calls[-1], memory, value)
