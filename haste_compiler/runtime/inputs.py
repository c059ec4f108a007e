"""Checking what a compiled network is called with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from haste_compiler.errors import InputError
from haste_compiler.graph.capture import register_dataclasses
from haste_compiler.graph.parameters import CONSTANT


@dataclass(frozen=True)
class InputStructure:
    """What inputs are beside their tensors.

    Attributes:
        spec: of ``(inputs, {})``.
        constants: the leaves that are no tensors, by position.
    """

    spec: TreeSpec
    constants: Mapping[int, Any]

    def __str__(self) -> str:
        return f"{self.spec} {dict(self.constants)}" if self.constants else str(self.spec)

    @property
    def tensors(self) -> int:
        """How many tensors there are."""
        return self.spec.num_leaves - len(self.constants)

    def inputs(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """The inputs, with these tensors."""
        leaves: list[Any] = list(tensors)
        for position, value in self.constants.items():
            leaves.insert(position, value)
        return tuple(tree_unflatten(leaves, self.spec)[0])


def split(inputs: Sequence[Any]) -> tuple[list[Any], InputStructure]:
    """The leaves of inputs that aren't constants, and all else. Dataclasses become known to PyTorch's pytrees."""
    register_dataclasses(tuple(inputs))
    leaves, spec = tree_flatten((tuple(inputs), {}))
    constants = {position: leaf for position, leaf in enumerate(leaves) if isinstance(leaf, CONSTANT)}
    return [leaf for leaf in leaves if not isinstance(leaf, CONSTANT)], InputStructure(spec, constants)


@dataclass(frozen=True)
class Signature:
    """Shapes and dtypes of a network's inputs, the containers that they come in, and what in them is no tensor.

    There is one compilation for each.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    structure: str
    constants: tuple[tuple[int, Any], ...] = ()


def prepare(leaves: Sequence[Any], known: Signature | None, places: Sequence[str] = ("cpu",)) -> list[Tensor]:
    """Make inputs what the compiled code takes: contiguous, aligned tensors, without gradients.

    Any memory layout is accepted (channels_last, strided, expanded); NumPy arrays are too.

    Args:
        leaves: the inputs.
        known: a signature that was compiled before; dtypes and ranks must agree with it.
        places: where tensors may be, see ``Machine.torch_devices``; the last is where the code runs.

    Raises:
        InputError: an input is no tensor, lies on another device, or has another dtype or rank than the network takes.
    """
    if known is not None and len(leaves) != len(known.shapes):
        raise InputError(f"the network takes {len(known.shapes)} inputs, {len(leaves)} were given")
    tensors = []
    for index, leaf in enumerate(leaves):
        tensor = _from_numpy(index, leaf) if isinstance(leaf, np.ndarray) else leaf
        if not isinstance(tensor, Tensor):
            raise InputError(f"input {index} is {type(leaf).__name__}: allowed are tensors")
        if str(tensor.device) not in places:
            raise InputError(f"input {index} is on {tensor.device}: the network was compiled for {places[-1]}")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise InputError(f"input {index} is {tensor.layout}: allowed are dense tensors")
        if known is not None:
            _compare(index, tensor, known)
        elif tensor.is_complex():
            raise InputError(f"input {index} is {tensor.dtype}: compiled networks take no complex numbers")
        tensor = tensor.detach().resolve_neg().contiguous()
        tensors.append(tensor.clone() if tensor.data_ptr() % _ALIGNMENT else tensor)
    return tensors


PlainKey = tuple[tuple[torch.Size, torch.dtype], ...]
"""Shapes and dtypes of inputs that need no preparing."""


def plain_key(inputs: Sequence[Any]) -> PlainKey | None:
    """The key of inputs that code for the CPU takes as they are; None where ``prepare`` has to look at them."""
    key = []
    for x in inputs:
        if type(x) is not Tensor or x.requires_grad or not x.is_cpu or x.layout is not torch.strided:
            return None
        if x.is_neg() or not x.is_contiguous() or x.data_ptr() % _ALIGNMENT:
            return None
        key.append((x.shape, x.dtype))
    return tuple(key)


def _from_numpy(index: int, array: np.ndarray[Any, Any]) -> Tensor:
    try:
        # PyTorch takes no negative strides.
        return torch.from_numpy(np.ascontiguousarray(array))
    except TypeError:
        raise InputError(
            f"input {index} is a NumPy array of {array.dtype}: allowed are numbers PyTorch knows"
        ) from None


_ALIGNMENT = 64
"""Bytes that TVM wants a tensor to begin at a multiple of; PyTorch's own tensors do, slices of them may not."""


def _compare(index: int, tensor: Tensor, known: Signature) -> None:
    if tensor.dtype != known.dtypes[index]:
        raise InputError(f"input {index} is {tensor.dtype}: the network takes {known.dtypes[index]}")
    if tensor.dim() != len(known.shapes[index]):
        shape, allowed = tuple(tensor.shape), known.shapes[index]
        raise InputError(
            f"input {index} has shape {shape}, rank {tensor.dim()}: "
            f"the network takes rank {len(allowed)}, such as {allowed}"
        )


def signature_of(tensors: Sequence[Tensor], structure: InputStructure) -> Signature:
    """The signature of prepared inputs and their containers; a dictionary's order counts, as it may for the model."""
    shapes, dtypes = tuple(tuple(tensor.shape) for tensor in tensors), tuple(tensor.dtype for tensor in tensors)
    return Signature(shapes, dtypes, str(structure), tuple(structure.constants.items()))


def known_like(made: Iterable[Signature], structure: InputStructure) -> Signature | None:
    """The signature, of those compiled before, that inputs of this structure must agree with in ranks and dtypes."""
    return next((signature for signature in made if signature.structure == str(structure)), None)
