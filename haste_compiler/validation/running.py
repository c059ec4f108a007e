"""Running a network so that nothing it does to its inputs, its outputs or itself goes unnoticed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, keystr, tree_flatten_with_path, tree_leaves, tree_map

from haste_compiler.errors import HasteError, InputError, first_line
from haste_compiler.graph.checksums import bytes_of
from haste_compiler.graph.explain_failure import explain_failure

Call = Callable[..., Any]


class Outputs(NamedTuple):
    """What a call returned.

    Attributes:
        names: of the leaves: "output", "output[0]", "output['logits']".
        leaves: the very objects that were returned.
        copies: the leaves with tensors copied, safe from whatever happens later.
        spec: the structure.
        described: the structure with dtype and shape in the place of every tensor.
        changed_inputs: whether the call wrote to its inputs.
    """

    names: list[str]
    leaves: list[Any]
    copies: list[Any]
    spec: TreeSpec
    described: str
    changed_inputs: bool


def run(call: Call, inputs: Sequence[Any]) -> Outputs:
    """Call a network on copies of ``inputs``, without gradients, and copy what it returns at once.

    Raises:
        InputError: it can't be called with them.
    """
    given = fresh_copy(tuple(inputs))
    try:
        with torch.inference_mode():
            result = call(*given)
    except HasteError:
        raise
    except Exception as error:
        reason = explain_failure(call, tuple(inputs)) if isinstance(call, nn.Module) else None
        name = getattr(call, "__name__", type(call).__name__)
        raise InputError(
            f"{name} can't be called with these inputs: {reason or f'{type(error).__name__}: {first_line(error)}'}"
        ) from error
    flat, spec = tree_flatten_with_path(result)
    leaves = [leaf for _, leaf in flat]
    return Outputs(
        [f"output{keystr(path)}" for path, _ in flat],
        leaves,
        fresh_copy(leaves),
        spec,
        str(tree_map(describe, result)),
        not all(identical(a, b) for a, b in zip(tree_leaves(given), tree_leaves(tuple(inputs)), strict=True)),
    )


def describe(leaf: Any) -> str:
    """Dtype and shape of a tensor, such as "float32(1, 10)"; any other value as Python writes it."""
    return f"{str(leaf.dtype).removeprefix('torch.')}{tuple(leaf.shape)}" if isinstance(leaf, Tensor) else repr(leaf)


def fresh_copy(tree: Any) -> Any:
    """Copy every tensor of a structure, strides kept, without gradient; other leaves stay what they are."""
    return tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, tree)


def identical(a: Any, b: Any) -> bool:
    """Whether two leaves are equal bit by bit; the same NaN in the same place is equal."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return a is b or (type(a) is type(b) and bool(a == b))
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bytes_of(a), bytes_of(b))


def same_memory(first: Sequence[Any], second: Sequence[Any]) -> list[int]:
    """Positions at which both lists hold a tensor in the same piece of memory."""
    return [
        index
        for index, (a, b) in enumerate(zip(first, second, strict=True))
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.numel() and _address(a) == _address(b)
    ]


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
