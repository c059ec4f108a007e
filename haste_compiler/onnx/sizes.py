"""Arithmetic of sizes: Shape, Gather, Concat, … of shapes are worked out on numbers, so that no tensor holds a size.

A size that isn't known before the call is a node of the graph. Operators here return None where they aren't ready for
their operands: the tensors' operators are asked next.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from haste_compiler.onnx.site import Site
from haste_compiler.onnx.values import DTYPES, Known, Sizes, Value

_Array = np.ndarray[Any, Any]
_FLOATS = (torch.float32, torch.float64, torch.float16)


def shape(at: Site) -> Value:
    """Shape, and Size: numbers where inference knows them, a question to the tensor where it doesn't."""
    value, sizes = at.value(0), at.shapes[0] if at.shapes else None
    if not isinstance(value, fx.Node):
        return None
    if sizes is None:
        return at.call(_shape, value, at.attribute("start", 0), at.attribute("end"))
    found = [size if isinstance(size, int) else at.call(Tensor.size, value, axis) for axis, size in enumerate(sizes)]
    return _result(_objects(found[at.attribute("start", 0) : at.attribute("end")]), False, at)


def size(at: Site) -> Value:
    """Size: the number of elements."""
    value = at.value(0)
    return Sizes(_objects(at.call(Tensor.numel, value))) if isinstance(value, fx.Node) else None


def arithmetic(at: Site) -> Value:
    """What is known of sizes alone; None: this is no arithmetic of sizes."""
    if at.op == "Shape":
        return shape(at)
    if at.op == "Size":
        return size(at)
    if at.op not in _ARITHMETIC or not any(isinstance(value, Sizes) for value in at.values):
        return None
    if not all(isinstance(value, Sizes | Known) or value is None for value in at.values):
        return None
    arrays = [value.array.astype(object) if isinstance(value, Sizes | Known) else None for value in at.values]
    floating = any(
        value.floating if isinstance(value, Sizes) else value.array.dtype.kind == "f"
        for value in at.values[: _DATA.get(at.op, len(at.values))]
        if isinstance(value, Sizes | Known)
    )
    if at.op == "Cast":
        dtype = DTYPES.get(at.attribute("to"))
        if dtype not in (*_FLOATS, torch.int64, torch.int32):
            return None
        converter = float if dtype in _FLOATS else int
        return _result(_each(at, _CONVERT[converter], converter, arrays[0]), dtype in _FLOATS, at)
    found = _ARITHMETIC[at.op](at, floating, *arrays)
    return None if found is None else _result(found, floating, at)


def _result(array: _Array, floating: bool, at: Site) -> Value:
    if any(isinstance(each, fx.Node) for each in array.reshape(-1)):
        return Sizes(array, floating)
    return Known(array.astype(np.float32 if floating else np.int64), at.name)


def _objects(values: Any) -> _Array:
    array = np.empty(np.shape(values) if isinstance(values, list) else (), dtype=object)
    array[...] = values
    return array


def _shape(x: Tensor, start: int, end: int | None) -> Tensor:
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


def _each(at: Site, lazy: Callable[..., Any], now: Callable[..., Any], *arrays: _Array | None) -> _Array:
    """Element by element: on numbers at once, on nodes as a call."""

    def one(*elements: Any) -> Any:
        if any(isinstance(element, fx.Node) for element in elements):
            return at.call(lazy, *elements)
        return now(*elements)

    operands = [array for array in arrays if array is not None]
    found = np.frompyfunc(one, len(operands), 1)(*operands)
    return found if isinstance(found, np.ndarray) else _objects(found)


def _quotient(a: Any, b: Any) -> Any:
    """Division of integers; sizes are not negative."""
    return a // b


def _integral(x: Any) -> Any:
    return int(x) if isinstance(x, int | float) else torch.sym_int(x)


def _real(x: Any) -> Any:
    return float(x) if isinstance(x, int | float) else torch.sym_float(x)


def _least(a: Any, b: Any) -> Any:
    return min(a, b) if isinstance(a, int | float) and isinstance(b, int | float) else torch.sym_min(a, b)


def _most(a: Any, b: Any) -> Any:
    return max(a, b) if isinstance(a, int | float) and isinstance(b, int | float) else torch.sym_max(a, b)


_CONVERT: dict[Any, Callable[..., Any]] = {float: _real, int: _integral}


def _binary(function: Callable[[Any, Any], Any]) -> Callable[..., _Array]:
    def run(at: Site, floating: bool, *arrays: _Array) -> _Array:
        found = arrays[0]
        for other in arrays[1:]:
            found = _each(at, function, function, found, other)
        return found

    return run


def _divide(at: Site, floating: bool, a: _Array, b: _Array) -> _Array:
    function = operator.truediv if floating else _quotient
    return _each(at, function, function, a, b)


def _rounded(function: Callable[[Any], int]) -> Callable[..., _Array]:
    return lambda at, floating, a: _each(at, function, lambda x: float(function(x)), a)


def _gather(at: Site, floating: bool, data: _Array, indices: _Array) -> _Array:
    return _objects_of(np.take(data, indices.astype(np.int64), axis=at.attribute("axis", 0)))


def _objects_of(value: Any) -> _Array:
    return value if isinstance(value, np.ndarray) else _objects(value)


def _concat(at: Site, floating: bool, *arrays: _Array) -> _Array:
    return np.concatenate(arrays, axis=at.attribute("axis", 0))


def _axes(at: Site, given: _Array | None) -> list[int] | None:
    return at.attribute("axes") if given is None else [int(axis) for axis in given.reshape(-1)]


def _squeeze(at: Site, floating: bool, data: _Array, axes: _Array | None = None) -> _Array:
    which = _axes(at, axes)
    return np.squeeze(data, axis=None if which is None else tuple(which))


def _unsqueeze(at: Site, floating: bool, data: _Array, axes: _Array | None = None) -> _Array:
    return np.expand_dims(data, tuple(_axes(at, axes) or ()))


def _slice(at: Site, floating: bool, data: _Array, *given: _Array | None) -> _Array | None:
    names = ("starts", "ends", "axes", "steps")
    parts = [None if part is None else part.tolist() for part in given] + [None] * (4 - len(given))
    starts, ends, axes, steps = (at.attribute(n) if p is None else p for n, p in zip(names, parts, strict=True))
    if any(isinstance(each, fx.Node) for part in (starts, ends, axes, steps) for each in part or ()):
        return None
    index = [slice(None)] * data.ndim
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = axes[place] if axes else place, steps[place] if steps else 1
        whole = data.shape[axis]
        # NumPy reads an end of -1 as the last element, ONNX with a step back as the place before the first.
        index[axis] = slice(start, None if step < 0 and end < -whole else end, step)
    return data[tuple(index)]


def _reshape(at: Site, floating: bool, data: _Array, shape: _Array) -> _Array | None:
    sizes = shape.tolist()
    return None if any(isinstance(each, fx.Node) for each in sizes) else data.reshape(sizes)


def _product(at: Site, floating: bool, data: _Array, axes: _Array | None = None) -> _Array | None:
    function = operator.mul if at.op == "ReduceProd" else operator.add
    if data.ndim != 1:
        return None
    total = data[0]
    for each in data[1:]:
        total = _each(at, function, function, _objects(total), _objects(each)).item()
    return _objects([total]) if at.attribute("keepdims", 1) else _objects(total)


_DATA = {"Gather": 1, "Slice": 1, "Squeeze": 1, "Unsqueeze": 1, "Reshape": 1, "ReduceProd": 1, "ReduceSum": 1}
"""How many operands hold data: the others say how."""

_ARITHMETIC: dict[str, Callable[..., _Array | None]] = {
    "Add": _binary(operator.add),
    "Sub": _binary(operator.sub),
    "Mul": _binary(operator.mul),
    "Mod": _binary(operator.mod),
    "Min": _binary(_least),
    "Max": _binary(_most),
    "Div": _divide,
    "Floor": _rounded(math.floor),
    "Ceil": _rounded(math.ceil),
    "Cast": lambda at, floating, data: data,
    "Identity": lambda at, floating, data: data,
    "Gather": _gather,
    "Concat": _concat,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Reshape": _reshape,
    "ReduceProd": _product,
    "ReduceSum": _product,
    "Transpose": lambda at, floating, data: np.transpose(data, at.attribute("perm")),
}
