"""Kernels that make labels and hand them on, against their operators."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from tvm import tirx

from haste_compiler.graph.geometry import window_geometry
from haste_compiler.methods.flat.carry import Windows
from haste_compiler.methods.flat.cpu.join_labels import join_labels_kernel
from haste_compiler.methods.flat.cpu.pixels import label_pixels_kernel
from haste_compiler.methods.flat.cpu.window_labels import window_labels_kernel
from haste_compiler.methods.flat.labels import MOST_VALUES, UNKNOWN
from haste_compiler.methods.flat.ops.join_labels import JOIN_LABELS
from haste_compiler.methods.flat.ops.label_pixels import LABEL_PIXELS
from haste_compiler.methods.flat.ops.window_labels import WINDOW_LABELS
from tests.codegen.kernels import Arguments, build
from tests.methods.flat.images import even_images


def run(kernel: tirx.PrimFunc, inputs: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    arguments = Arguments()
    arguments.read(*inputs)
    labels = arguments.write(shape, torch.int32)
    arguments.call(build({"labels": kernel}, "llvm")["labels"])
    return labels


def check(found: Tensor, expected: Tensor) -> None:
    """Of an image of which nothing is known the first label counts."""
    known = expected[:, 0, 0] != UNKNOWN
    assert torch.equal(found[:, 0, 0], expected[:, 0, 0]) and torch.equal(found[known], expected[known])


def test_pixels() -> None:
    many = torch.arange(MOST_VALUES + 100).repeat_interleave(2).float().view(1, 2, -1)
    for x in (
        torch.cat([even_images(2, 3, 19, 27), torch.randn(1, 3, 19, 27)]),
        torch.cat([many, many], 1)[None],
        torch.zeros(1, 1, 1, 1),
        torch.full((1, 2, 5, 3), torch.nan),
    ):
        expected = LABEL_PIXELS(x)
        check(
            run(label_pixels_kernel("labels", len(x), x.shape[1], (x.shape[2], x.shape[3]), 8), [x], expected.shape),
            expected,
        )


def test_joins() -> None:
    first = LABEL_PIXELS(torch.cat([even_images(2, 3, 19, 27), torch.randn(1, 3, 19, 27)]))
    second = torch.stack([first[0].T.reshape(19, 27), torch.arange(19 * 27).int().view(19, 27), first[0]])
    for labels in ([first, first.flip(0)], [first, second], [first, second, second]):
        flat = [each.reshape(3, -1).contiguous() for each in labels]
        found = run(join_labels_kernel("labels", len(labels), 3, 19 * 27), flat, (3, 19 * 27))
        check(found.view(3, 19, 27), JOIN_LABELS(labels))


@pytest.mark.parametrize(
    "window",
    [
        ((2, 2), (1, 1), (0, 0, 0, 0), (1, 1)),
        ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
        ((7, 1), (1, 3), (3, 3, 0, 0), (1, 1)),
        ((3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
        ((1, 1), (1, 1), (0, 4, 3, 0), (1, 1)),
    ],
)
def test_windows(window: Windows) -> None:
    labels = LABEL_PIXELS(torch.cat([even_images(2, 3, 19, 27), torch.randn(1, 3, 19, 27)]))
    geometry = window_geometry(1, (19, 27), (*window, 1, (1, 1)), 1)
    expected = WINDOW_LABELS(labels, *map(list, window))
    check(run(window_labels_kernel("labels", geometry, 3), [labels], expected.shape), expected)


def test_operators_say_what_they_return() -> None:
    labels = LABEL_PIXELS(even_images(2, 3, 8, 9))
    torch.library.opcheck(LABEL_PIXELS, (torch.randn(2, 3, 4, 5),))
    torch.library.opcheck(JOIN_LABELS, ([labels, labels],))
    torch.library.opcheck(WINDOW_LABELS, (labels, [3, 3], [2, 2], [1, 1, 1, 1], [1, 1]))
