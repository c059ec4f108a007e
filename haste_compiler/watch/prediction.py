"""What a network says of an image, as one reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_leaves

from haste_compiler.validation.comparison import TOP

_SMALLEST_PICTURE = 16


@dataclass(frozen=True)
class Rank:
    """One class that an image may be of.

    Attributes:
        name: of the class, or its number.
        share, dense_share: softmax of the scores, 0 to 1, by the compiled and by the dense network.
    """

    name: str
    share: float
    dense_share: float


@dataclass(frozen=True)
class Prediction:
    """What two networks say of one image.

    Attributes:
        shapes: of the outputs.
        ranks: the compiled network's first classes, where it gives scores (1, K).
        agrees: whether the first class is the dense network's, too; None: there are no scores.
        picture: uint8 (H, W, 3), where the first output is an image, (1, 1, H, W) or (1, 3, H, W).
        error: 2-norm of the difference of all outputs over that of the dense network's.
    """

    shapes: tuple[tuple[int, ...], ...]
    error: float
    ranks: tuple[Rank, ...] = ()
    agrees: bool | None = None
    picture: NDArray[np.uint8] | None = field(default=None, repr=False)


def predict(outputs: Any, dense: Any, labels: Sequence[str] = ()) -> Prediction:
    """Read what the compiled and the dense network returned for one image.

    Args:
        outputs, dense: of the same structure.
        labels: names of classes by number; those beyond are called by it.
    """
    pairs = [
        (mine, theirs)
        for mine, theirs in zip(tree_leaves(outputs), tree_leaves(dense), strict=True)
        if isinstance(mine, Tensor)
    ]
    difference = sum(float((mine.double() - theirs.double()).square().sum()) for mine, theirs in pairs)
    size = sum(float(theirs.double().square().sum()) for _, theirs in pairs)
    error = (difference / size) ** 0.5 if size else float(difference > 0)
    shapes = tuple(tuple(mine.shape) for mine, _ in pairs)
    first, plain = pairs[0]
    if first.dim() == 2 and first.is_floating_point():
        shares, plain_shares = (each[0].double().softmax(0) for each in (first, plain))
        best = shares.topk(min(TOP, len(shares))).indices.tolist()
        ranks = tuple(
            Rank(labels[n] if n < len(labels) else f"class {n}", float(shares[n]), float(plain_shares[n])) for n in best
        )
        return Prediction(shapes, error, ranks, best[0] == int(plain_shares.argmax()))
    return Prediction(shapes, error, picture=_picture(first))


def _picture(output: Tensor) -> NDArray[np.uint8] | None:
    """An output as an image; None: it is none."""
    if output.dim() != 4 or output.shape[1] not in (1, 3) or min(output.shape[2:]) < _SMALLEST_PICTURE:
        return None
    values = (output[0].float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).expand(-1, -1, 3)
    return np.ascontiguousarray(values.cpu().numpy())
