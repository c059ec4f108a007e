"""Numbers that a model's code reads from tensors of its own, such as ``int(positions.max())``, known before export.

``torch.export`` runs the code without values, so it can't read them. What doesn't depend on inputs is the same for all
inputs of these shapes: the code is run once with values, and told the same numbers while it is exported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READS: frozenset[Callable[..., Any]] = frozenset(
    (Tensor.__int__, Tensor.__float__, Tensor.__bool__, Tensor.__index__, Tensor.item, Tensor.tolist)
)
"""What makes numbers of a tensor's values."""


@dataclass(frozen=True)
class Numbers:
    """What a model read in one call.

    Attributes:
        values: the numbers, in order.
        fixed: whether none of them depends on the inputs' values or on chance.
    """

    values: tuple[Any, ...]
    fixed: bool


def read_numbers(model: nn.Module, inputs: Sequence[Any]) -> Numbers:
    """The numbers that a model reads from tensors, of inputs like these."""
    reader = _Reader()
    with torch.no_grad(), _Dependent(inputs) as dependent, reader:
        reader.dependent = dependent
        model(*inputs)
    return Numbers(tuple(reader.values), reader.fixed)


@contextlib.contextmanager
def told(model: nn.Module, numbers: Numbers) -> Iterator[None]:
    """While the model's code runs in here, its tensors say these numbers."""
    teller = _Teller(numbers.values)
    handles = [
        model.register_forward_pre_hook(lambda *_: teller.start()),
        model.register_forward_hook(lambda *_: teller.stop()),
    ]
    try:
        with teller:
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Dependent(TorchDispatchMode):
    """Notes whose memory holds what depends on inputs, or on chance."""

    def __init__(self, inputs: Sequence[Any]) -> None:
        super().__init__()
        self._noted: dict[int, Any] = {}
        self._note(inputs)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.has((args, kwargs)) or torch.Tag.nondeterministic_seeded in func.tags:
            self._note(result)
        return result

    def has(self, values: Any) -> bool:
        """Whether one of some values depends on them."""
        return any(id_of in self._noted for id_of, _ in _memories(values))

    def _note(self, values: Any) -> None:
        # The memory is kept: its number must not be another's later.
        self._noted.update(_memories(values))


def _memories(values: Any) -> Iterator[tuple[int, Any]]:
    for leaf in tree_leaves(values):
        if isinstance(leaf, Tensor):
            memory = leaf.untyped_storage()
            yield memory._cdata, memory


class _Reader(TorchFunctionMode):
    """Notes the numbers that are read."""

    dependent: _Dependent

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Any] = []
        self.fixed = True

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _READS:
            self.values.append(result)
            self.fixed &= not self.dependent.has(args)
        return result


class _Teller(TorchFunctionMode):
    """Says numbers in the place of tensors, in order."""

    def __init__(self, values: Sequence[Any]) -> None:
        super().__init__()
        self._values, self._left = values, iter(())

    def start(self) -> None:
        """From here on, all of them."""
        self._left = iter(self._values)

    def stop(self) -> None:
        """From here on, tensors speak for themselves."""
        self._left = iter(())

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _READS:
            value = next(self._left, None)
            if value is not None:
                return value
        return func(*args, **(kwargs or {}))
