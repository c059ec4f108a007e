"""Pixels of kept images against eager PyTorch: those that read a change are computed, all others stay as they were."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from haste_compiler.codegen.cpu.kernels.kept_pixels import (
    Blended,
    Here,
    Picked,
    PixelSource,
    Pixelwise,
    SideBySide,
    Whole,
    pixels_arguments,
    pixels_kernel,
)
from haste_compiler.codegen.cpu.kernels.resize import pack_positions
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from tests.codegen.kernels import Arguments, build, nhwc, targets

KEPT = 7.0
"""What all kept values are before."""

Tables = Sequence[np.ndarray]


@dataclass(frozen=True)
class Example:
    """A kernel, and what it computes.

    Attributes:
        work: what the kernel is told.
        size: of the output.
        tables: of the sources, then the constant.
        eager: outputs (N, K, H, W) of the sources.
    """

    work: Pixelwise
    size: tuple[int, int]
    tables: Tables
    eager: Callable[..., Tensor]

    def check(self, batch: int, target: str, share: float, *, whole: bool) -> None:
        lanes = vector_unit(parse_target(target)).lanes
        sources = [torch.randn(batch, each.channels, *each.size) for each in self.work.sources]
        changes = [(torch.rand(batch, 1, *each.size) < share).float() for each in self.work.sources]
        shapes = {name: shape for name, shape, _ in pixels_arguments(self.work, batch, self.size)}
        arguments = Arguments()
        arguments.read(*map(nhwc, sources))
        for source, change in zip(sources, changes, strict=True):
            arguments.read(torch.zeros(batch, *source.shape[2:]), change[:, 0])
        arguments.read(*self.tables, torch.tensor([-1.0 if whole else 0.1, 0.0]))
        y = arguments.write(shapes["y"]).fill_(KEPT)
        sizes, noted = (arguments.write(shapes[f"y_{plane}"]).fill_(-1.0) for plane in ("sizes", "changes"))
        kernel = pixels_kernel("pixels", self.work, batch, self.size, lanes)
        arguments.call(build({"pixels": kernel}, target)["pixels"])

        wanted = nhwc(self.eager(*sources))
        # What reads a change is another number where the changes are infinite.
        spoilt = [torch.where(change > 0, torch.inf, source) for source, change in zip(sources, changes, strict=True)]
        reads = torch.ones(noted.shape, dtype=torch.bool) if whole else self._touched(sources, spoilt)
        torch.testing.assert_close(y, torch.where(reads[..., None], wanted, KEPT), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(sizes, torch.where(reads, wanted.square().sum(-1), -1.0), rtol=1e-4, atol=1e-4)
        steps = torch.where(reads, (wanted - KEPT).square().sum(-1), 0.0)
        torch.testing.assert_close(noted, steps, rtol=1e-4, atol=1e-4)

    def _touched(self, sources: Sequence[Tensor], spoilt: Sequence[Tensor]) -> Tensor:
        """The pixels (N, H, W) that read one that changed, found by the operator itself."""
        before, after = self.eager(*sources), self.eager(*spoilt)
        differ: Tensor = ((before != after) | after.isnan()).any(1)
        return differ


def pointwise(kind: str, eager: Callable[..., Tensor], *, factors: bool = False) -> Example:
    size = (5, 6)
    other = PixelSource((1, 1), 11, Whole()) if factors else PixelSource(size, 11, Here())
    return Example(Pixelwise(kind, (PixelSource(size, 11, Here()), other)), size, [], eager)


def with_constant(kind: str, side: str, eager: Callable[[Tensor, Tensor], Tensor]) -> Example:
    constant = np.linspace(0.5, 2.5, 9, dtype=np.float32)
    column = torch.from_numpy(constant)[:, None, None]
    return Example(
        Pixelwise(kind, (PixelSource((4, 7), 9, Here()),), side), (4, 7), [constant], lambda x: eager(x, column)
    )


def picked() -> Example:
    rows, columns = np.array([0, 0, 1, 2, -1], np.int32), np.array([-1, 3, 2, 1], np.int32)

    def eager(x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 1, 0, 1), value=0.25)
        return padded[:, :, rows][:, :, :, columns]

    return Example(Pixelwise("copy", (PixelSource((3, 4), 10, Picked(0.25)),)), (5, 4), [rows, columns], eager)


def blended() -> Example:
    def eager(x: Tensor) -> Tensor:
        return F.interpolate(x, size=(7, 9), mode="bilinear", align_corners=False)

    maps = [
        F.interpolate(torch.eye(old)[:, None], size=new, mode="linear", align_corners=False)[:, 0].T.numpy()
        for old, new in ((4, 7), (6, 9))
    ]
    tables = [table for each in maps for table in pack_positions(each)]
    return Example(Pixelwise("copy", (PixelSource((4, 6), 9, Blended()),)), (7, 9), tables, eager)


def side_by_side() -> Example:
    def eager(x: Tensor) -> Tensor:
        return F.pixel_shuffle(x.unflatten(1, (2, 2, 5)).permute(0, 3, 1, 2, 4, 5).flatten(1, 3), 2)

    return Example(Pixelwise("copy", (PixelSource((3, 4), 20, SideBySide((2, 2))),)), (6, 8), [], eager)


def joined() -> Example:
    sources = tuple(PixelSource((4, 5), channels, Here()) for channels in (9, 3, 16))
    return Example(Pixelwise("join", sources), (4, 5), [], lambda *parts: torch.cat(parts, 1))


EXAMPLES = {
    "add": pointwise("add", torch.add),
    "sub": pointwise("sub", torch.sub),
    "factors": pointwise("mul", torch.mul, factors=True),
    "quotient": with_constant("div", "left", lambda x, c: c / x),
    "difference": with_constant("sub", "right", lambda x, c: x - c),
    "prelu": with_constant("prelu", "right", lambda x, c: torch.where(x < 0, x * c, x)),
    "activation": Example(
        Pixelwise("copy", (PixelSource((4, 5), 13, Here()),), activation="relu6"), (4, 5), [], F.relu6
    ),
    "picked": picked(),
    "blended": blended(),
    "side_by_side": side_by_side(),
    "joined": joined(),
}


@pytest.mark.parametrize("name", EXAMPLES)
@settings(max_examples=1)
@given(st.integers(1, 2), st.sampled_from(targets()), st.sampled_from((0.1, 0.4)), st.booleans())
def test_kernels(name: str, batch: int, target: str, share: float, whole: bool) -> None:
    EXAMPLES[name].check(batch, target, share, whole=whole)
