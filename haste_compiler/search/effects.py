"""What layers' changes do to the outputs, to first order, for each image (``methods.traced`` has the formula)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from haste_compiler.methods.traced import Traced
from haste_compiler.search.images import Images
from haste_compiler.search.quality import log_scores
from haste_compiler.search.sensitivity import distances

_PROBES = 256
"""Random directions, of all images together, at least: the outputs' error is known within 10 % by so many."""


class Effects:
    """The directions in which the outputs of some images are looked at.

    For each image these are random ones, whose squares add up to the squared relative error of all outputs, and the
    differences between the score of the original's class and those of its runners-up.

    Args:
        images: with the original's outputs.
        shifts: whether differences of scores are asked for; there must be class scores then.
    """

    def __init__(self, images: Images, shifts: bool) -> None:
        self._images = images
        self._size = sum(output[0].numel() for output in images.outputs)
        self._probes = min(self._size, math.ceil(_PROBES / images.count))
        self._classes = distances(images)[0] if shifts else torch.empty(images.count, 1, dtype=torch.int64)
        scores = images.outputs[images.scores] if shifts and images.scores is not None else None
        self._probabilities = scores is not None and log_scores(scores) is not scores
        self._norms = [float(output.norm().clamp(min=1e-300)) for output in images.outputs]

    @property
    def count(self) -> int:
        """Directions for each image."""
        return self._probes + self._classes.shape[1] - 1

    def gradients(self, run: Traced, rows: Sequence[int]) -> list[Tensor]:
        """For every node of a run the directions pulled back, (images of the run, directions, values of an image).

        Args:
            run: on some of the images.
            rows: which, by number.
        """
        found = [run.pulled_back(self._parts(run, direction)) for direction in self._directions(rows)]
        return [torch.stack([each.reshape(len(rows), -1) for each in column], 1) for column in zip(*found, strict=True)]

    def change(self, effects: Tensor) -> Tensor:
        """What is added to the outputs over their norm, as ``Point.change`` has it, from (count, directions)."""
        return effects[:, : self._probes].flatten().float()

    def shift(self, effects: Tensor) -> Tensor:
        """What is added to differences of scores, as ``Point.shift`` has it, from (count, directions)."""
        return effects[:, self._probes :].double()

    def _directions(self, rows: Sequence[int]) -> Iterator[list[Tensor]]:
        """One part, (images, ...), for each of the images' outputs."""
        own = [output[list(rows)] for output in self._images.outputs]
        drawn = torch.stack([self._drawn(row) for row in rows])
        for probe in range(self._probes):
            parts = drawn[:, probe].split([output[0].numel() for output in own], 1)
            triples = zip(parts, own, self._norms, strict=True)
            yield [part.view(output.shape) / norm for part, output, norm in triples]
        for runner_up in range(1, self._classes.shape[1]):
            yield self._difference(own, self._classes[list(rows)][:, [0, runner_up]])

    def _drawn(self, row: int) -> Tensor:
        """Orthogonal directions of an image, (probes, size), of which E[v vᵀ] is 1 over their number."""
        drawn = torch.randn(self._size, self._probes, generator=torch.Generator().manual_seed(row))
        return torch.linalg.qr(drawn).Q.T * math.sqrt(self._size / self._probes)

    def _difference(self, own: Sequence[Tensor], classes: Tensor) -> list[Tensor]:
        """The direction that is the difference of two classes' scores, which are logarithms."""
        assert self._images.scores is not None
        scores = own[self._images.scores]
        signs = torch.tensor([[1.0, -1.0]], dtype=scores.dtype).expand(len(scores), 2)
        slope = 1 / scores.clamp(min=1e-12) if self._probabilities else torch.ones_like(scores)
        difference = torch.zeros_like(scores).scatter_(1, classes, signs) * slope
        places = enumerate(own)
        return [difference if place == self._images.scores else torch.zeros_like(each) for place, each in places]

    def _parts(self, run: Traced, direction: Sequence[Tensor]) -> list[Tensor]:
        """A direction for all outputs of a run: those that have no row for each image are not looked at."""
        given = iter(direction)
        images = len(direction[0])
        return [
            next(given).to(output) if output.dim() and len(output) == images else torch.zeros_like(output)
            for output in run.outputs
        ]


def contracted(gradients: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> Tensor:
    """What changes of some layers, which add up, do in each direction: (images, directions), float32."""
    parts = [
        torch.bmm(gradients[name], change.reshape(len(change), -1, 1))[:, :, 0] for name, change in changes.items()
    ]
    return torch.stack(parts).sum(0)
