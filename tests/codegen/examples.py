"""Generated convolutions with what their tensors are drawn from, small enough to be printed."""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.graph.geometry import ConvGeometry
from tests.codegen.kernels import ConvCase, conv_case, targets
from tests.codegen.strategies import ACTIVATIONS


@dataclass(frozen=True)
class ConvExample:
    """A convolution, and how it is compiled; subclasses add what their kernel takes besides."""

    geometry: ConvGeometry
    batch: int = 2
    bias: bool = True
    residual: bool = False
    activation: str = "none"
    target: str = "llvm"
    threads: int = 1
    seed: int = 0

    def case(self, x: Tensor | None = None) -> ConvCase:
        torch.manual_seed(self.seed)
        return conv_case(
            self.geometry, self.batch, x, bias=self.bias, residual=self.residual, activation=self.activation
        )


Example = TypeVar("Example", bound=ConvExample)
Drawn = TypeVar("Drawn")


def several(examples: st.SearchStrategy[Drawn], count: int) -> st.SearchStrategy[list[Drawn]]:
    """Different examples, drawn independently: one after the other, Hypothesis mostly varies what it had before."""
    return st.lists(examples, min_size=count, max_size=count, unique=True)


def conv_examples(
    kind: type[Example], geometry: st.SearchStrategy[ConvGeometry], images: int = 5, **rest: st.SearchStrategy[Any]
) -> st.SearchStrategy[Example]:
    """Examples of a kind with up to ``images`` images; ``rest`` draws the subclass's own fields, or others' values."""
    fields: dict[str, st.SearchStrategy[Any]] = {
        "geometry": geometry,
        "batch": st.integers(1, images),
        "bias": st.booleans(),
        "residual": st.booleans(),
        "activation": st.sampled_from(ACTIVATIONS),
        "target": st.sampled_from(targets()),
        "threads": st.sampled_from((1, 2)),
        "seed": st.integers(0, 2**16),
    }
    return st.builds(kind, **(fields | rest))
