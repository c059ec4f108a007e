"""``haste::attention`` is well formed, and what PyTorch's attention is where both are defined."""

import math

import torch
import torch.nn.functional as F

from haste_compiler.ops.attention import ATTENTION, attention


def test_it_is_well_formed() -> None:
    query, key, value = (torch.randn(2, 3, size, 8) for size in (5, 7, 7))
    lengths = torch.tensor([[3], [7]], dtype=torch.int32)
    torch.library.opcheck(ATTENTION, (query, key, value, torch.randn(2, 1, 1, 7), lengths, 0.3, True))
    torch.library.opcheck(ATTENTION, (query, key, value, None, None, 0.3, False))
    torch.library.opcheck(ATTENTION, (query, key, value, None, None, 0.3, False, lengths))


def test_a_length_is_a_mask() -> None:
    """Of keys that may be NaN; a matrix without keys makes zeros."""
    query, key, value = (torch.randn(3, 4, 8) for _ in range(3))
    lengths = torch.tensor([4, 2, 0], dtype=torch.int32)
    there = torch.arange(4) < lengths[:, None]
    expected = F.scaled_dot_product_attention(query, key, value, there[:, None], scale=0.3)
    key[1, 2:] = value[1, 2:] = math.nan
    torch.testing.assert_close(attention(query, key, value, None, lengths, 0.3, False), expected)
    assert (expected[2] == 0).all()
