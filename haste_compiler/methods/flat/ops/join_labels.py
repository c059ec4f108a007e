"""``haste::join_labels``: labels of pixels that are alike in all of several tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.methods.flat.labels import UNKNOWN
from haste_compiler.methods.flat.reference.windows import labels_of
from haste_compiler.ops.call import OpCall


@torch.library.custom_op("haste::join_labels", mutates_args=(), schema="(Tensor[] labels) -> Tensor")
def join_labels(labels: Sequence[Tensor]) -> Tensor:
    """Labels (N, H, W), int32, each the number of the first pixel of its image that has the same in all of ``labels``.

    Nothing is known of an image of which nothing is known in one of them, see also ``labels_of``.
    """
    stacked, size = torch.stack(list(labels), -1).cpu(), (labels[0].shape[1], labels[0].shape[2])
    known = [not bool((pixels[0, 0] == UNKNOWN).any()) for pixels in stacked]
    keys = [list(map(tuple, pixels.flatten(0, 1).tolist())) for pixels in stacked]
    joined = [labels_of(each if there else [], size) for each, there in zip(keys, known, strict=True)]
    return torch.stack(joined).to(labels[0].device)


@join_labels.register_fake
def _(labels: Sequence[Tensor]) -> Tensor:
    return torch.empty_like(labels[0])


JOIN_LABELS = torch.ops.haste.join_labels.default


@dataclass(frozen=True)
class JoinLabelsCall(OpCall):
    """A call of ``haste::join_labels``."""

    OP: ClassVar[Any] = JOIN_LABELS

    labels: Sequence[fx.Node]
