"""The inputs of a validation: one batch or many, with labels or without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves

from haste_compiler.errors import InputError
from haste_compiler.validation.running import fresh_copy

Labels = Tensor | Literal[True] | None


@dataclass(frozen=True)
class Batch:
    """The arguments of one call.

    Attributes:
        inputs: positional arguments, copies of what the user gave.
        labels: class of each image, int64 (N,), or None.
    """

    inputs: tuple[Any, ...]
    labels: Tensor | None = None

    @property
    def images(self) -> int:
        """Images in it: the first tensor's leading dimension where that is (N, C, H, W), else one."""
        first = next(leaf for leaf in tree_leaves(self.inputs) if isinstance(leaf, Tensor))
        return int(first.shape[0]) if first.dim() == 4 else 1

    @property
    def empty(self) -> bool:
        """Whether one of its tensors has no values: nothing is computed on it."""
        return any(isinstance(leaf, Tensor) and leaf.numel() == 0 for leaf in tree_leaves(self.inputs))

    @property
    def signature(self) -> Any:
        """Structure, shapes and dtypes: what a network is specialised for."""
        leaves, spec = tree_flatten(self.inputs)
        kinds = [(leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return str(spec), tuple(kinds)


def read_batches(inputs: Any, labels: Labels = None, *, may_be_none: bool = False) -> Iterator[Batch]:
    """Read batches one after the other, each copied, so that nobody can change them between two runs.

    Args:
        inputs: a tensor, a tuple of arguments, or an iterable of such batches; a list counts as an iterable.
        labels: classes of all images in order; or True: each batch's last item is its labels.
        may_be_none: it is no error if there is no batch.

    Raises:
        InputError: there is no batch, or no image in them; a batch is no tensor, tuple or list; labels are missing, are
            no integers (N,), or are not as many as the images.
    """
    offset, images = 0, 0
    for item in _items(inputs, labels):
        batch = _batch(item, labels is True)
        count = batch.images
        if isinstance(labels, Tensor):
            batch = Batch(batch.inputs, _checked_labels(labels)[offset : offset + count])
        if batch.labels is not None and len(batch.labels) != count:
            raise InputError(f"a batch of {count} images has {len(batch.labels)} labels")
        offset, images = offset + count, images + count
        yield batch
    if not images and not may_be_none:
        raise InputError("there is nothing to validate on: inputs hold no images")
    if isinstance(labels, Tensor) and offset != len(labels):
        raise InputError(f"there are {len(labels)} labels for {offset} images")


def _items(inputs: Any, labels: Labels) -> Iterable[Any]:
    if labels is not None and labels is not True and not isinstance(labels, Tensor):
        raise InputError(f"labels must be a tensor, True or None, not {type(labels).__name__}")
    if isinstance(inputs, (Tensor, tuple)):
        return [inputs]
    if not isinstance(inputs, Iterable) or isinstance(inputs, (str, bytes, dict)):
        raise InputError(
            f"inputs must be a tensor, a tuple of tensors or an iterable of batches, not {type(inputs).__name__}"
        )
    return inputs


def _batch(item: Any, labelled: bool) -> Batch:
    if not isinstance(item, (Tensor, tuple, list)):
        raise InputError(f"a batch must be a tensor or a tuple or list of arguments, not {type(item).__name__}")
    arguments = (item,) if isinstance(item, Tensor) else tuple(item)
    labels = None
    if labelled:
        if len(arguments) < 2 or not isinstance(arguments[-1], Tensor):
            raise InputError("labels=True asks for batches (inputs, labels), but a batch has no labels")
        labels = _checked_labels(arguments[-1])
        arguments = arguments[:-1]
    if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(arguments)):
        raise InputError("a batch holds no tensor")
    return Batch(fresh_copy(arguments), labels)


def _checked_labels(labels: Tensor) -> Tensor:
    if labels.dim() != 1 or labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise InputError(f"labels must be integers of shape (N,), not {labels.dtype} of {tuple(labels.shape)}")
    return labels.detach().long().cpu().clone()
