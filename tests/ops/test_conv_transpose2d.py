"""``haste::conv_transpose2d`` is well formed, and its geometry says what PyTorch returns."""

import pytest
import torch

from haste_compiler.errors import InputError
from haste_compiler.graph.transposed import transposed_geometry
from haste_compiler.ops.conv_transpose2d import CONV_TRANSPOSE2D, conv_transpose2d


def test_it_is_well_formed() -> None:
    x, weight, bias = torch.randn(2, 4, 5, 6), torch.randn(4, 3, 3, 2), torch.randn(6)
    residual = torch.randn(2, 6, 9, 7)
    numbers = ([2, 1], [1, 0], [0, 0], [1, 1], 2, "relu")
    torch.library.opcheck(CONV_TRANSPOSE2D, (x, weight, bias, residual, *numbers))
    last = x.to(memory_format=torch.channels_last)
    torch.library.opcheck(CONV_TRANSPOSE2D, (last, weight, None, None, *numbers))


def test_groups_that_do_not_divide_and_no_output_are_refused() -> None:
    with pytest.raises(InputError, match="groups=3 does not divide 4 input"):
        transposed_geometry(4, (5, 5), ([3, 3], [2, 2], [1, 1], [0, 0], [1, 1], 3), 2)
    with pytest.raises(InputError, match=r"padding \(3, 3\) has no output"):
        transposed_geometry(4, (1, 1), ([3, 3], [2, 2], [3, 3], [0, 0], [1, 1], 1), 2)


def test_an_empty_batch() -> None:
    numbers = ([2, 2], [0, 0], [0, 0], [1, 1], 1, "none")
    y = conv_transpose2d(torch.randn(0, 4, 5, 5), torch.randn(4, 3, 2, 2), None, None, *numbers)
    assert y.shape == (0, 3, 10, 10)
