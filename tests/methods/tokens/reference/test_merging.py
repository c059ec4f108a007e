"""Means by hand: sizes that aren't weighed or added up, and tokens that aren't copied back, are seen."""

import torch

from haste_compiler.methods.tokens.reference.merging import copy_back, merge


def test_sizes_weigh() -> None:
    x = torch.tensor([[[1.0], [5.0], [9.0]]])
    y, size = merge(x, torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0, 1, 0]], dtype=torch.int32), 2)
    assert y.tolist() == [[[3.0], [5.0]]] and size.tolist() == [[4.0, 2.0]]


def test_a_token_alone_is_what_it_was() -> None:
    x, size = torch.randn(2, 7, 5), torch.rand(2, 7) + 0.1
    own = torch.arange(7, dtype=torch.int32).expand(2, 7)
    y, total = merge(x, size, own, 7)
    assert torch.equal(y, x) and torch.equal(total, size)


def test_copies_lie_where_the_tokens_were() -> None:
    y = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert copy_back(y, torch.tensor([[1, 0, 1]], dtype=torch.int32)).tolist() == [[[3.0, 4.0], [1.0, 2.0], [3.0, 4.0]]]


def test_room_that_is_left_is_zero() -> None:
    y, size = merge(torch.ones(1, 2, 3), torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.int32), 4)
    assert (y[:, 1:] == 0).all() and size.tolist() == [[2.0, 0.0, 0.0, 0.0]]
