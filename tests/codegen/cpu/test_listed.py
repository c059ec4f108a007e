"""Convolutions of streams: listed tiles are the plain kernel's to the bit, all others stay as they were."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haste_compiler.codegen.cpu.kernels.dense import choose_dense
from haste_compiler.codegen.cpu.kernels.kept import LEAST_CHANGE
from haste_compiler.codegen.cpu.kernels.listed import choose_listed, listed_arguments, listed_kernel, pack_listed
from haste_compiler.codegen.cpu.kernels.tile_list import Tiles
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from haste_compiler.graph.geometry import ConvGeometry
from tests.codegen.examples import ConvExample, conv_examples, several
from tests.codegen.kernels import Arguments, build, nhwc, run_dense, run_depthwise

TOLERANCE = 0.5


@dataclass(frozen=True)
class Example(ConvExample):
    """``share`` of the tiles are listed; ``winograd`` bounds the plain kernel's tiles."""

    share: float = 0.3
    winograd: int = 4

    def check(self) -> None:
        case, geometry, unit = self.case(), self.geometry, vector_unit(parse_target(self.target))
        depthwise = geometry.is_depthwise
        dense = None if depthwise else choose_dense(geometry, self.batch, unit, self.threads, self.winograd)
        tiling = choose_listed(geometry, self.batch, unit, self.threads, dense)
        tiles = Tiles(geometry, self.batch, tiling.side)
        listed = torch.rand(tiles.count) < self.share
        kernel = listed_kernel(
            "listed", geometry, self.batch, tiling, unit, residual=self.residual, activation=self.activation
        )
        bias = None if case.bias is None else case.bias.numpy()
        described = listed_arguments(geometry, self.batch, tiling, residual=self.residual)
        shapes = {name: shape for name, shape, _ in described}
        arguments = Arguments()
        arguments.read(nhwc(case.x), *pack_listed(case.weight.numpy(), bias, geometry, tiling))
        images = ["x"]
        if case.residual is not None:
            arguments.read(nhwc(case.residual))
            images.append("residual")
        arguments.read(*(torch.zeros(shapes[f"{name}_{plane}"]) for name in images for plane in ("sizes", "changes")))
        arguments.read(torch.tensor([TOLERANCE, 0.0]))
        moved = arguments.write(shapes["moved"]).copy_(torch.where(listed, 1.0, 0.25))
        y = arguments.write(shapes["y"]).fill_(7.0)
        sizes = arguments.write(shapes["y_sizes"]).fill_(-1.0)
        count = arguments.write(shapes["listed"], torch.int32)
        changes = arguments.write(shapes["y_changes"])
        arguments.call(build({"listed": kernel}, self.target)["listed"])

        target = self.target
        plain = run_depthwise(case, target, self.threads) if dense is None else run_dense(case, target, dense)
        wanted = nhwc(plain)
        computed = self._pixels(tiles, listed)
        assert torch.equal(y, torch.where(computed[..., None], wanted, torch.tensor(7.0)))
        of_pixels = torch.where(computed, wanted.square().sum(-1), -torch.ones(()))
        torch.testing.assert_close(sizes, of_pixels, rtol=1e-4, atol=1e-5)
        steps = torch.where(computed, (wanted - 7).square().sum(-1).clamp(min=LEAST_CHANGE), torch.zeros(()))
        torch.testing.assert_close(changes, steps, rtol=1e-4, atol=1e-5)
        assert torch.equal(changes > 0, computed)
        assert torch.equal(moved, torch.where(listed, 0.0, 0.25))
        assert count.item() == listed.sum()

    def _pixels(self, tiles: Tiles, listed: torch.Tensor) -> torch.Tensor:
        """The pixels (N, OH, OW) that listed tiles own; a later tile's of two."""
        (height, width), (rows, columns) = self.geometry.output_size, tiles.size
        owners = np.full((self.batch, height, width), -1)
        number = 0
        for image in range(self.batch):
            for row in range(0, height, rows):
                for column in range(0, width, columns):
                    top, left = min(row, height - rows), min(column, width - columns)
                    owners[image, top : top + rows, left : left + columns] = number
                    number += 1
        return listed[torch.from_numpy(owners)]


@st.composite
def geometries(draw: st.DrawFn) -> ConvGeometry:
    """Of any kind that streams take; half of them such as Winograd's algorithm takes."""
    if draw(st.booleans()):
        channels, filters, groups = draw(st.integers(8, 40)), draw(st.integers(8, 40)), 1
        kernel, stride, dilation, padding = (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)
    else:
        groups = draw(st.sampled_from((1, 1, 2, 0)))
        channels, filters = (groups * draw(st.integers(1, 20)) for _ in range(2))
        if groups == 0:
            channels = filters = groups = draw(st.integers(2, 40))
        kernel = draw(st.sampled_from(((1, 1), (3, 3), (5, 1), (2, 3))))
        stride = draw(st.sampled_from(((1, 1), (2, 2), (1, 3))))
        dilation = draw(st.sampled_from(((1, 1), (1, 1), (2, 1))))
        padding = draw(st.sampled_from(((0, 0, 0, 0), (1, 1, 1, 1), (0, 2, 1, 0))))
    size = draw(st.integers(8, 21)), draw(st.integers(8, 21))
    return ConvGeometry(channels, filters, kernel, stride, padding, dilation, groups, size, (8, 8))


def examples() -> st.SearchStrategy[Example]:
    shares = st.sampled_from((0.0, 0.1, 0.5, 1.0))
    return conv_examples(Example, geometries(), 3, share=shares, winograd=st.sampled_from((0, 2, 4)))


@settings(max_examples=2)
@given(several(examples(), 3))
def test_generated(examples: list[Example]) -> None:
    for example in examples:
        example.check()


@pytest.mark.slow
@settings(max_examples=150)
@given(examples())
def test_generated_more(example: Example) -> None:
    example.check()
