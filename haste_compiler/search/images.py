"""The images that a search measures on, cut into calls of equal size, and the original's answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from haste_compiler.errors import InputError
from haste_compiler.validation.batches import Labels, read_batches
from haste_compiler.validation.comparison import constant_rows, is_scores, scores_warnings

_MOST_TRIED = 128


@dataclass(frozen=True)
class Images:
    """Inputs in calls of equal size, and what the original makes of them.

    Attributes:
        calls: positional arguments of each call; every tensor has ``size`` rows, the last ones repeated where the
            images did not fill the last call.
        size: images a call.
        count: images in all, without repeated ones.
        outputs: the original's floating-point outputs on all images, (count, ...) each.
        labels: int64 (count,), or None.
    """

    calls: list[tuple[Any, ...]]
    size: int
    count: int
    outputs: list[Tensor]
    labels: Tensor | None

    @property
    def scores(self) -> int | None:
        """Position among ``outputs`` of the class scores, (count, classes); None where there are none."""
        return next((index for index, output in enumerate(self.outputs) if is_scores(output)), None)

    def part(self, start: int, stop: int) -> Images:
        """The images of calls ``start`` to ``stop``."""
        first, last = start * self.size, min(stop * self.size, self.count)
        outputs = [output[first:last] for output in self.outputs]
        labels = None if self.labels is None else self.labels[first:last]
        return Images(self.calls[start:stop], self.size, last - first, outputs, labels)

    def divided(self) -> tuple[Images, Images]:
        """The images that settings are chosen on, see ``tried``, and the others, which these are judged on."""
        first = max(1, tried(self.count) // self.size)
        return self.part(0, first), self.part(first, len(self.calls))

    def warnings(self) -> list[str]:
        """What makes a measured agreement say less than it seems to."""
        if self.scores is None:
            return []
        scores = self.outputs[self.scores]
        return scores_warnings(self.count, set(scores.argmax(dim=1).tolist()), constant_rows(scores))


@dataclass(frozen=True)
class Rows:
    """What a user gave, read.

    Attributes:
        arguments: positional arguments, whose tensors hold all images in rows.
        labels: int64 (count,), or None.
        count: images.
    """

    arguments: tuple[Any, ...]
    labels: Tensor | None
    count: int

    def answered(self, model: nn.Module, most: int) -> Images:
        """Cut the images into calls, no larger than what settings are chosen on, and run the original on them.

        Args:
            model: in evaluation mode.
            most: images a call, at most.

        Raises:
            InputError: the model returns no floating-point tensor with a row for each image.
        """
        size = min(most, tried(self.count))
        rows = [torch.arange(start, start + size).clamp(max=self.count - 1) for start in range(0, self.count, size)]
        calls = [tree_map(lambda leaf, rows=row: leaf[rows], self.arguments) for row in rows]
        with torch.inference_mode():
            answers = [floating(model(*call), size) for call in calls]
        if not answers[0]:
            raise InputError(f"{type(model).__name__} returns no floating-point tensor with a row for each image")
        outputs = [torch.cat(column)[: self.count] for column in zip(*answers, strict=True)]
        return Images(calls, size, self.count, outputs, self.labels)


def tried(count: int) -> int:
    """How many of so many images settings are chosen on: a quarter, at least one, at most 128."""
    return max(1, min(count // 4, _MOST_TRIED))


def read_rows(inputs: Any, labels: Labels) -> Rows:
    """Read images, shuffle nothing.

    Args:
        inputs: a tensor, a tuple of arguments or an iterable of batches; all tensors have the images in rows.
        labels: classes of all images; or True: each batch's last item; or None.

    Raises:
        InputError: there are no images, tensors differ in their rows or batches in their shapes, or an argument is no
            tensor.
    """
    batches = [batch for batch in read_batches(inputs, labels) if not batch.empty]
    flat = [tree_flatten(batch.inputs) for batch in batches]
    if not all(isinstance(leaf, Tensor) and leaf.dim() > 0 for leaves, _ in flat for leaf in leaves):
        raise InputError("inputs: a search takes tensors with the images in rows, and nothing else")
    kinds = {(str(spec), tuple((leaf.shape[1:], leaf.dtype) for leaf in leaves)) for leaves, spec in flat}
    if len(kinds) != 1:
        raise InputError(f"inputs: batches of {len(kinds)} different shapes; a search takes images of one")
    whole = [torch.cat(column) for column in zip(*(leaves for leaves, _ in flat), strict=True)]
    rows = {len(leaf) for leaf in whole}
    if len(rows) != 1:
        raise InputError(f"inputs: tensors have {sorted(rows)} rows; a search takes one row an image in each")
    given = [batch.labels for batch in batches if batch.labels is not None]
    return Rows(flat[0][1].unflatten(whole), torch.cat(given) if given else None, rows.pop())


def floating(result: Any, size: int) -> list[Tensor]:
    """Copies of the floating-point tensors of an output that have ``size`` rows, float64."""
    leaves: Sequence[Any] = tree_leaves(result)
    return [
        leaf.detach().double()
        for leaf in leaves
        if isinstance(leaf, Tensor) and leaf.dtype.is_floating_point and leaf.dim() > 0 and len(leaf) == size
    ]
