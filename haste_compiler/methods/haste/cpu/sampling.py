"""Which patches a gate looks at before the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.emit import Expr
from haste_compiler.graph.geometry import ConvGeometry

_LEAST_SAMPLES = 2
_SAMPLED_SHARE = 8


@dataclass(frozen=True)
class Sampling:
    """The tasks (one patch of one conv group each) that a gate looks at before the others: numbers, or expressions.

    Attributes:
        tasks: of all patches.
        samples: how many go first: every eighth, two at least.
        step: from one to the next.
    """

    tasks: Any
    samples: Any
    step: Any

    def is_sample(self, task: Expr) -> Expr:
        """Whether a task goes first."""
        return tirx.all(task % self.step == self.step // 2, task // self.step < self.samples)


def sampling(geometry: ConvGeometry, images: Any) -> Sampling:
    """The sampled tasks of one layer for a number of images, inside a kernel maybe an expression."""
    tasks = emit.bind(images * geometry.patch_grid[0] * geometry.patch_grid[1] * geometry.groups)
    samples = emit.bind(emit.minimum(tasks, emit.maximum(_LEAST_SAMPLES, tasks // _SAMPLED_SHARE)))
    return Sampling(tasks, samples, emit.bind(tasks // samples))
