"""The operators keep their contracts with PyTorch: shapes and types without values are those of the values."""

from typing import Any

import pytest
import torch
from torch import Tensor

from haste_compiler.methods.tokens.ops.head_merge import HEAD_MERGE
from haste_compiler.methods.tokens.ops.httm_match import HTTM_MATCH
from haste_compiler.methods.tokens.ops.token_copy import TOKEN_COPY
from haste_compiler.methods.tokens.ops.token_merge import TOKEN_MERGE
from haste_compiler.methods.tokens.ops.tome_match import TOME_MATCH


def assignments(*shape: int, slots: int) -> Tensor:
    return torch.randint(slots, shape, dtype=torch.int32)


CALLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "tome_match": (TOME_MATCH, (torch.randn(2, 9, 4), 3, 1)),
    "token_merge": (TOKEN_MERGE, (torch.randn(2, 9, 4), torch.ones(2, 9), assignments(2, 9, slots=6), 6)),
    "token_copy": (TOKEN_COPY, (torch.randn(2, 6, 4), assignments(2, 9, slots=6))),
    "httm_match": (HTTM_MATCH, (torch.randn(2, 3, 10, 4), 2, 1, 2, 2, 0.3, True, 0.1)),
    "head_merge": (
        HEAD_MERGE,
        (torch.randn(2, 3, 9, 4), assignments(2, 3, 9, slots=6), torch.full((2, 3), 6, dtype=torch.int32), 6),
    ),
    "token_copy of heads": (TOKEN_COPY, (torch.randn(2, 3, 6, 4), assignments(2, 3, 9, slots=6))),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_is_well_formed(name: str) -> None:
    operator, arguments = CALLS[name]
    torch.library.opcheck(operator, arguments)
