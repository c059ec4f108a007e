"""ToMe's matching by hand: an edge too many, a protected token that merges or a tie broken otherwise is seen."""

import math

import pytest
import torch

from haste_compiler.errors import ConfigError
from haste_compiler.methods.tokens.reference.bipartite import match_bipartite, most_merged

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]
NORTH_EAST = [1.0, 1.0]


def test_the_most_similar_pair_merges() -> None:
    """A is tokens 2 and 4, B is 1, 3 and 5: of A, 4 is the nearer to its match; the rest stays in order."""
    metric = torch.tensor([[NORTH, EAST, NORTH_EAST, NORTH, WEST, WEST]])
    assert match_bipartite(metric, 1, 1).tolist() == [[0, 1, 2, 3, 4, 4]]
    assert match_bipartite(metric, 2, 1).tolist() == [[0, 1, 1, 2, 3, 3]]


def test_lengths_do_not_matter() -> None:
    metric = torch.tensor([[EAST, NORTH, WEST, EAST]])
    scaled = metric * torch.tensor([5.0, 0.1, 2.0, 7.0])[:, None]
    assert torch.equal(match_bipartite(metric, 1, 0), match_bipartite(scaled, 1, 0))


def test_of_equal_ones_the_first() -> None:
    """Both of the match of a token, and of the tokens that merge."""
    metric = torch.tensor([EAST]).expand(1, 8, 2)
    assert match_bipartite(metric, 2, 0).tolist() == [[0, 0, 0, 1, 2, 3, 4, 5]]


def test_images_are_matched_each() -> None:
    metric = torch.tensor([[EAST, EAST, NORTH, WEST], [EAST, WEST, NORTH, NORTH]])
    assert match_bipartite(metric, 1, 0).tolist() == [[0, 0, 1, 2], [0, 1, 2, 2]]


def test_what_is_no_number_merges_last() -> None:
    metric = torch.tensor([[[math.nan, 0.0], EAST, NORTH, EAST]])
    assert match_bipartite(metric, 1, 0).tolist() == [[0, 1, 1, 2]]
    assert match_bipartite(metric, 2, 0).tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("tokens", "protected", "most"), [(197, 1, 98), (197, 0, 99), (198, 2, 98), (3, 2, 0), (1, 0, 0)]
)
def test_how_many_can_merge(tokens: int, protected: int, most: int) -> None:
    metric = torch.randn(1, tokens, 4)
    assert most_merged(tokens, protected) == most
    assert match_bipartite(metric, most, protected).max() == tokens - most - 1
    with pytest.raises(ConfigError, match=f"{most + 1} of {tokens} tokens .* allowed are 0 to {most}$"):
        match_bipartite(metric, most + 1, protected)


def test_protected_tokens_stay_alone() -> None:
    assignment = match_bipartite(torch.ones(1, 9, 2), 3, 3)
    slots = assignment[0].tolist()
    assert all(slots.count(slot) == 1 for slot in slots[:3])
