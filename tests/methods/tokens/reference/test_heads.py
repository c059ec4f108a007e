"""HTTM by hand: heads that share a matching, and outliers that merge, are seen."""

import pytest
import torch

from haste_compiler.errors import ConfigError
from haste_compiler.methods.tokens.reference.blocks import Blocks
from haste_compiler.methods.tokens.reference.heads import match_heads

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]

ONE_BLOCK = Blocks(4, 1, 0, 4, 1, 0.5, anchored=False)
"""Tokens 0 and 2 are destinations, 1 and 3 go to one of them."""


def test_each_head_has_its_own() -> None:
    x = torch.tensor([[[EAST, NORTH, NORTH, EAST], [EAST, EAST, NORTH, NORTH]]])
    assignment, lengths = match_heads(x, ONE_BLOCK, 0.0)
    assert assignment.tolist() == [[[0, 1, 1, 0], [0, 0, 1, 1]]] and lengths.tolist() == [[2, 2]]


def test_the_farthest_of_all_heads_stay_alone() -> None:
    """Of both heads' tokens, two of the second are the farthest from what they'd merge with."""
    x = torch.tensor([[[EAST, EAST, NORTH, [0.0, 2.0]], [EAST, [9.0, 0.0], NORTH, [0.0, 8.0]]]])
    assignment, lengths = match_heads(x, ONE_BLOCK, 0.25)
    assert assignment.tolist() == [[[0, 0, 1, 1], [0, 1, 2, 3]]] and lengths.tolist() == [[2, 4]]


def test_blocks_do_not_meet() -> None:
    """The second frame's tokens aren't compared with the first's, though those are the same."""
    x = torch.tensor([[[EAST, EAST, NORTH, EAST]]])
    assignment, _ = match_heads(x, Blocks(4, 2, 0, 2, 1, 0.5, anchored=False), 0.0)
    assert assignment.tolist() == [[[0, 0, 1, 1]]]


def test_protected_tokens_stay_alone() -> None:
    assignment, lengths = match_heads(torch.ones(1, 1, 6, 2), Blocks(6, 2, 1, 2, 2, 0.25, anchored=False), 0.0)
    assert assignment.tolist() == [[[0, 1, 1, 2, 1, 1]]] and lengths.tolist() == [[3]]


def test_how_many_may_be_outliers() -> None:
    with pytest.raises(ConfigError, match=r"a share of 1\.0 of the tokens are outliers"):
        match_heads(torch.ones(1, 1, 4, 2), ONE_BLOCK, 1.0)
