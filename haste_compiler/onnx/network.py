"""What ``from_onnx`` returns: a graph module that knows its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from haste_compiler.errors import InputError


@dataclass(frozen=True)
class OnnxTensor:
    """An input or output, as the ONNX graph declares it.

    Attributes:
        name: in the graph.
        shape: sizes; a name where the graph has a symbol, None where it says nothing. None: the rank isn't known.
        dtype: of its elements.
    """

    name: str
    shape: tuple[int | str | None, ...] | None
    dtype: torch.dtype

    def __str__(self) -> str:
        sizes = "?" if self.shape is None else "x".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {sizes}, {str(self.dtype).removeprefix('torch.')}"


class OnnxNetwork(fx.GraphModule):
    """A network that was read from ONNX: ``network.code`` prints what it computes."""

    @property
    def inputs(self) -> tuple[OnnxTensor, ...]:
        """The inputs, in the order of the call's arguments."""
        return self.meta["onnx"]["inputs"]

    @property
    def outputs(self) -> tuple[OnnxTensor, ...]:
        """The outputs, in the order in which a call returns them."""
        return self.meta["onnx"]["outputs"]

    @property
    def layer_names(self) -> Mapping[str, str]:
        """ONNX nodes' names by the names of the modules that stand for them."""
        return self.meta["onnx"]["layers"]

    def example_inputs(
        self, batch: int = 1, sizes: Mapping[str, int | Sequence[int]] | None = None
    ) -> tuple[Tensor, ...]:
        """Random inputs of the declared shapes; zeros where an input isn't of floating point.

        Args:
            batch: the first axis of every input, where the graph leaves it open.
            sizes: what else the graph leaves open: sizes by symbol, or whole shapes by input.

        Raises:
            InputError: a size is missing.
        """
        given = dict(sizes or {})
        generator = torch.Generator().manual_seed(0)
        examples = []
        for each in self.inputs:
            shape = [_size(each, axis, batch, given) for axis in range(_rank(each, given))]
            if each.dtype.is_floating_point:
                examples.append(torch.randn(shape, generator=generator).to(each.dtype))
            else:
                examples.append(torch.zeros(shape, dtype=each.dtype))
        return tuple(examples)


def _rank(each: OnnxTensor, given: Mapping[str, int | Sequence[int]]) -> int:
    whole = given.get(each.name)
    if isinstance(whole, Sequence):
        return len(whole)
    if each.shape is None:
        raise InputError(f"the network doesn't say what shape {each.name!r} has: give sizes={{{each.name!r}: (...)}}")
    return len(each.shape)


def _size(each: OnnxTensor, axis: int, batch: int, given: Mapping[str, int | Sequence[int]]) -> int:
    whole = given.get(each.name)
    if isinstance(whole, Sequence):
        return whole[axis]
    assert each.shape is not None
    size = each.shape[axis]
    if isinstance(size, int):
        return size
    if size is not None and isinstance(found := given.get(size), int):
        return found
    if axis == 0:
        return batch
    what = f"{size!r}, axis {axis}" if size is not None else f"axis {axis}"
    key = size if size is not None else each.name
    raise InputError(f"the network leaves {what} of {each.name!r} open ({each}): give sizes={{{key!r}: ...}}")
