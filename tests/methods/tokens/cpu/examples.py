"""Tokens to match: such whose cosines are exact, many of them equal, and any others; and blocks to match them in."""

from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.methods.tokens.reference.blocks import Blocks
from tests.codegen.kernels import targets


def own_and_others() -> list[Any]:
    """Targets to test a kernel for: this machine, and slowly the others that it can run."""
    own, *others = targets()
    return [own, *(pytest.param(target, marks=pytest.mark.slow) for target in others)]


def exact(*shape: int, seed: int) -> Tensor:
    """Tokens of four ones or minus ones each, the rest zeros: norms and cosines are multiples of a quarter."""
    *_, width = shape
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(shape, generator=generator).argsort(-1).argsort(-1) < 4
    signs = torch.randint(2, shape, generator=generator) * 2.0 - 1
    assert width >= 4
    return signs * places


def any_tokens(*shape: int, seed: int) -> Tensor:
    """Tokens of normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def cuts(draw: st.DrawFn) -> Blocks:
    """Frames cut in blocks."""
    frames, of_frame = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    return Blocks(
        frames * of_frame,
        frames,
        draw(st.integers(0, min(2, of_frame - 1))),
        draw(st.integers(1, 40)),
        draw(st.integers(1, 6)),
        draw(st.sampled_from([0.1, 0.3, 0.5, 1.0])),
        draw(st.booleans()),
    )
