"""The convolution that computes alike tiles once: the plain kernel's bits, copies and labels as the definition says."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from haste_compiler.codegen.cpu.kernels.activation import pack_channels
from haste_compiler.codegen.cpu.kernels.dense import choose_dense, pack_dense
from haste_compiler.codegen.cpu.kernels.listed import ListedTiling
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from haste_compiler.methods.flat.cpu.conv2d import Epilogue, choose_flat, flat_arguments, flat_kernel
from haste_compiler.methods.flat.labels import UNKNOWN
from haste_compiler.methods.flat.ops.conv2d import FLAT_CONV2D
from haste_compiler.methods.flat.ops.label_pixels import LABEL_PIXELS
from haste_compiler.methods.flat.reference.tiles import copy_tiles
from tests.codegen.cpu.test_listed import geometries
from tests.codegen.examples import ConvExample, conv_examples, several
from tests.codegen.kernels import Arguments, ConvCase, build, nhwc, run_dense
from tests.methods.flat.images import even_images


@dataclass(frozen=True)
class Example(ConvExample):
    """``winograd`` bounds the plain kernel's tiles; ``noise``: whether the first image is nothing but that."""

    winograd: int = 4
    tolerance: float = 0.0
    slope: bool = False
    noise: bool = False

    def check(self) -> None:
        geometry, unit = self.geometry, vector_unit(parse_target(self.target))
        x = even_images(self.batch, geometry.in_channels, *geometry.input_size, seed=self.seed)
        if self.noise:
            x[0].normal_()
        case = self.case(x)
        if case.residual is not None:
            case.residual[:] = even_images(self.batch, geometry.out_channels, *geometry.output_size, seed=self.seed + 1)
        dense = choose_dense(geometry, self.batch, unit, self.threads, self.winograd)
        tiling = choose_flat(geometry, self.batch, unit, self.threads, dense)
        slope = torch.rand(geometry.out_channels) if self.slope else None
        labels = LABEL_PIXELS(case.x)
        added = None if case.residual is None else LABEL_PIXELS(case.residual)
        found, made, counts, squares = self._run(case, tiling, slope, labels, added)

        plain = run_dense(case, self.target, dense)
        if slope is not None:
            plain = torch.where(plain < 0, plain * slope[:, None, None], plain)
        for image, y in enumerate(plain):
            other = None if added is None else added[image]
            expected = copy_tiles(y, labels[image], other, geometry, self.tolerance, tiling.side)
            assert torch.equal(found[image], nhwc(expected.y[None])[0])
            assert self.tolerance or torch.equal(expected.y, y)
            assert counts[image].tolist() == [expected.computed, expected.moved]
            assert abs(squares[image].sqrt().item() - expected.step) <= 1e-4 * expected.step
            if expected.labels[0, 0] == UNKNOWN:
                assert made[image, 0, 0] == UNKNOWN
            else:
                assert torch.equal(made[image], expected.labels)

    def _run(
        self, case: ConvCase, tiling: ListedTiling, slope: Tensor | None, labels: Tensor, added: Tensor | None
    ) -> list[Tensor]:
        """What the kernel writes."""
        geometry = self.geometry
        epilogue = Epilogue(case.residual is not None, case.activation, self.slope)
        described = flat_arguments(geometry, self.batch, tiling, epilogue)
        arguments = Arguments()
        bias = None if case.bias is None else case.bias.numpy()
        arguments.read(nhwc(case.x), *pack_dense(case.weight.numpy(), bias, geometry, tiling.plain))
        if case.residual is not None:
            arguments.read(nhwc(case.residual))
        if slope is not None:
            arguments.read(pack_channels(slope.numpy(), geometry.out_channels))
        arguments.read(labels)
        if added is not None:
            arguments.read(added)
        arguments.read(torch.tensor([self.tolerance]))
        written = [arguments.write(shape, getattr(torch, dtype)) for _, shape, dtype in described[-4:]]
        kernel = flat_kernel("flat", geometry, self.batch, tiling, epilogue)
        arguments.call(build({"flat": kernel}, self.target)["flat"])
        return written


def examples() -> st.SearchStrategy[Example]:
    return conv_examples(
        Example,
        geometries(),
        3,
        winograd=st.sampled_from((0, 2, 4)),
        tolerance=st.sampled_from((0.0, 0.0, 0.1, 0.5)),
        slope=st.booleans(),
        noise=st.booleans(),
    )


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


def test_a_slope_for_all_channels_is_one_for_each() -> None:
    assert np.array_equal(pack_channels(np.array([0.5], np.float32), 3), np.full(3, 0.5, np.float32))


def test_the_operator_says_what_it_returns() -> None:
    x = even_images(2, 3, 9, 8)
    weight, settings_ = torch.randn(4, 3, 3, 3), torch.tensor([0.1])
    window = ([1, 1], [1, 1, 1, 1], [1, 1], 1)
    args = (x, LABEL_PIXELS(x), weight, torch.randn(4), torch.rand(4), None, None, settings_, *window, "relu")
    torch.library.opcheck(FLAT_CONV2D, args)
