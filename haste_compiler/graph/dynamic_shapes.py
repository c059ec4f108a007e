"""What ``compile(dynamic=...)`` and ``compile(dynamic_shapes=...)`` ask for: which axes of which inputs may vary."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.dynamic_shapes import Dim, _DerivedDim, _DimHint, _DimHintType
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from haste_compiler.errors import CaptureError, InputError, first_line
from haste_compiler.graph.dynamic import BatchRange
from haste_compiler.graph.parameters import CONSTANT

_ALL = "batch"
"""The name of the batch where it was given none."""


def batch_range(model: nn.Module, inputs: Sequence[Any], dynamic_shapes: Any) -> BatchRange | None:
    """The batches that are asked for.

    Args:
        model: its signature names the inputs.
        inputs: example inputs.
        dynamic_shapes: True: the first axis of all tensors that agree in it. Or as ``torch.export`` takes it: for each
            argument, by name or in order, the axes that may vary, such as ``{"x": {0: Dim("batch", min=1, max=64)}}``.
            False, None: nothing varies.

    Returns:
        None if nothing varies.

    Raises:
        InputError: an axis other than the first is to vary, or more than one batch; names or numbers of arguments that
            the model doesn't take; example inputs that have another batch.
    """
    if not dynamic_shapes:
        return None
    leaves = tree_flatten(tuple(inputs))[0]
    marks = _all_batches(leaves) if dynamic_shapes is True else _marks(model, inputs, dynamic_shapes)
    if not marks:
        return None
    if any(isinstance(leaf, CONSTANT) for leaf in leaves):
        raise InputError("dynamic: all inputs must be tensors, and one of these is a constant")
    positions = tuple(marks)
    names = {_name(mark) for mark in marks.values()}
    if len(names) > 1:
        raise InputError(f"dynamic_shapes: {' and '.join(sorted(names))} are two sizes; allowed is one batch for all")
    ranges = {_range(mark) for mark in marks.values()}
    if len(ranges) > 1:
        raise InputError(f"dynamic_shapes: {names.pop()!r} is given two ranges; allowed is one")
    (least, most), name = ranges.pop(), names.pop()
    if most is not None and most < max(2, least):
        raise InputError(
            f"dynamic_shapes: {name!r} is from {least} to {most}; a range has more than one size, "
            "for one size compile without dynamic_shapes"
        )
    found = BatchRange(name, least, most, positions)
    shapes = [tuple(leaf.shape) if isinstance(leaf, Tensor) else () for leaf in leaves]
    found.check(shapes)
    return found


def example_batch(found: BatchRange, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """The example inputs with at least two images: ``torch.export`` takes a size of 1 for fixed."""
    leaves, structure = tree_flatten(tuple(inputs))
    for index in found.inputs:
        if leaves[index].shape[0] == 1:
            leaves[index] = torch.cat([leaves[index]] * 2)
    made = tree_unflatten(leaves, structure)
    assert isinstance(made, tuple)
    return made


def export_shapes(model: nn.Module, inputs: Sequence[Any], found: BatchRange) -> dict[str, Any]:
    """The same for ``torch.export``."""
    batch = Dim(found.name, min=found.least, max=found.most)
    leaves, structure = tree_flatten(tuple(inputs))
    specs = [{0: batch} if index in found.inputs else None for index in range(len(leaves))]
    return _by_name(model, tree_unflatten(specs, structure))


def _by_name(model: nn.Module, inputs: Sequence[Any]) -> dict[str, Any]:
    try:
        return dict(inspect.signature(model.forward).bind(*inputs).arguments)
    except TypeError as error:
        raise InputError(f"{type(model).__name__} doesn't take these inputs: {first_line(error)}") from None


def _all_batches(leaves: Sequence[Any]) -> dict[int, Any]:
    sizes = {i: leaf.shape[0] for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.dim()}
    if not sizes:
        raise InputError("dynamic=True: no input has a first axis, which would be the batch")
    batch = next(iter(sizes.values()))
    return {index: True for index, size in sizes.items() if size == batch}


def _marks(model: nn.Module, inputs: Sequence[Any], dynamic_shapes: Any) -> dict[int, Any]:
    """The dimension given for the first axis of each tensor, by the tensor's position."""
    arguments = _by_name(model, inputs)
    positions = iter(range(len(tree_flatten(tuple(inputs))[0])))
    numbered = _by_name(model, tree_map(lambda leaf: (next(positions), leaf), tuple(inputs)))
    if isinstance(dynamic_shapes, Mapping):
        unknown = [name for name in dynamic_shapes if name not in arguments]
        if unknown:
            raise InputError(
                f"dynamic_shapes: there is no argument {unknown[0]!r}; the model takes {', '.join(arguments)}"
            )
        given = {name: dynamic_shapes.get(name) for name in arguments}
    elif isinstance(dynamic_shapes, (tuple, list)) and len(dynamic_shapes) == len(arguments):
        given = dict(zip(arguments, dynamic_shapes, strict=True))
    else:
        raise InputError(
            f"dynamic_shapes is {type(dynamic_shapes).__name__}: allowed is a dictionary by argument, or a tuple with "
            f"an entry for each of {', '.join(arguments)}"
        )
    marks: dict[int, Any] = {}
    for name, spec in given.items():
        _collect(name, numbered[name], spec, marks)
    return marks


def _collect(path: str, value: Any, spec: Any, marks: dict[int, Any]) -> None:
    """Go through an argument and what is given for it."""
    if spec is None:
        return
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], int):
        position, leaf = value
        mark = _axis(path, leaf, spec)
        if mark is not None:
            marks[position] = mark
        return
    keys: Any = value if isinstance(value, Mapping) else range(len(value))
    if isinstance(value, Mapping) != isinstance(spec, Mapping) or len(spec) != len(value):
        raise InputError(
            f"dynamic_shapes: {path} is a {type(value).__name__} of {len(value)}, {spec!r} is given for it"
        )
    for key in keys:
        if isinstance(spec, Mapping) and key not in spec:
            raise InputError(f"dynamic_shapes: {path} has {key!r}, for which nothing is given")
        _collect(f"{path}[{key!r}]", value[key], spec[key], marks)


def _axis(path: str, leaf: Any, spec: Any) -> Any:
    """The dimension given for a tensor's first axis; None if it is fixed."""
    if not isinstance(leaf, Tensor) or not isinstance(spec, (Mapping, tuple, list)):
        raise InputError(
            f"dynamic_shapes: {path} is {type(leaf).__name__}, {spec!r} is given for it; allowed for a tensor is a "
            "dictionary from axis to Dim, or a tuple with an entry for each axis"
        )
    axes = dict(spec) if isinstance(spec, Mapping) else dict(enumerate(spec))
    for axis, mark in axes.items():
        if not isinstance(axis, int) or not 0 <= axis < leaf.dim():
            raise InputError(f"dynamic_shapes: {path} has no axis {axis!r}, it has {leaf.dim()}")
        if _is_fixed(mark):
            continue
        if isinstance(mark, _DerivedDim) or not isinstance(mark, (Dim, _DimHint)):
            raise InputError(f"dynamic_shapes: axis {axis} of {path} is {mark!r}; allowed are Dim and None")
        if axis:
            raise InputError(
                f"dynamic_shapes: axis {axis} of {path} can't vary: kernels are made for one height, width and number "
                "of channels; allowed is axis 0, the batch"
            )
    return None if _is_fixed(axes.get(0)) else axes[0]


def _is_fixed(mark: Any) -> bool:
    return mark is None or isinstance(mark, int) or getattr(mark, "type", None) is _DimHintType.STATIC


def _name(mark: Any) -> str:
    return str(mark.__name__) if isinstance(mark, Dim) else _ALL


def _range(mark: Any) -> tuple[int, int | None]:
    least, most = getattr(mark, "min", None), getattr(mark, "max", None)
    # Without a bound it is torch.export's infinity, which is no number to int().
    return max(1, int(least or 1)), None if most is None or most > 2**31 else int(most)


def violation(error: BaseException) -> str:
    """What ``torch.export`` says of a size that it couldn't leave open, in one line."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.startswith("  ")]
    return "; ".join(line.split(". If you")[0] for line in lines) or first_line(error)


def batch_symbol(gm: fx.GraphModule, found: BatchRange) -> Any:
    """The symbol that stands for the batch in a captured graph.

    Raises:
        CaptureError: it was fixed.
    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    sizes = [placeholders[index].meta["val"].shape[0] for index in found.inputs]
    for size in sizes:
        if not isinstance(size, torch.SymInt):
            raise CaptureError(f"the model can't be captured for {found.name!r} of {found}: its code takes {size} only")
    return sizes[0].node.expr


def shapes_for(gm: fx.GraphModule, symbol: Any, batch: int) -> list[tuple[int, ...]]:
    """Shapes of the tensors that a captured graph returns for a batch."""
    nodes = (leaf for leaf in tree_flatten(gm.graph.output_node().args[0])[0] if isinstance(leaf, fx.Node))
    return [
        tuple(int(size.node.expr.subs(symbol, batch)) if isinstance(size, torch.SymInt) else size for size in val.shape)
        for val in (node.meta["val"] for node in nodes)
        if isinstance(val, Tensor)
    ]


def run_fake(model: nn.Module, inputs: Sequence[Any], found: BatchRange, batch: int) -> list[tuple[int, ...]]:
    """Shapes of the tensors that a model returns for the first ``batch`` images; nothing is computed."""
    mode = torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True)
    leaves, structure = tree_flatten(tuple(inputs))
    for index in found.inputs:
        leaves[index] = leaves[index][:batch]
    fakes = [mode.from_tensor(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    with mode, torch.no_grad():
        outputs = tree_flatten(model(*tree_unflatten(fakes, structure)))[0]
    return [tuple(value.shape) for value in outputs if isinstance(value, Tensor)]
