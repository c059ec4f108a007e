"""Blocks by hand: a token in no block or in two, and a destination too many, are seen."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haste_compiler.errors import ConfigError
from haste_compiler.methods.tokens.reference.blocks import Block, Blocks


def test_the_same_place_of_consecutive_frames_lies_together() -> None:
    """Three frames of a camera token and four others, in blocks of two places by two frames."""
    blocks = Blocks(15, 3, 1, 2, 2, 0.5, anchored=False)
    assert blocks.cut() == [
        Block([1, 2], [6, 7]),
        Block([3, 4], [8, 9]),
        Block([11], [12]),
        Block([13], [14]),
    ]
    assert blocks.count == 3 + 6


def test_the_first_frame_stays() -> None:
    """All of its tokens; there are others as far as the share allows."""
    blocks = Blocks(12, 3, 0, 4, 3, 0.5, anchored=True)
    assert blocks.cut() == [Block([0, 4, 1, 2, 6, 3], [8, 5, 9, 10, 7, 11])]
    assert Blocks(12, 3, 0, 4, 3, 0.1, anchored=True).count == 4


@settings(max_examples=30, deadline=None)
@given(
    frames=st.integers(1, 5),
    of_frame=st.integers(2, 12),
    protected=st.integers(0, 1),
    places=st.integers(1, 6),
    depth=st.integers(1, 6),
    kept=st.floats(0.05, 1),
    anchored=st.booleans(),
)
def test_each_token_has_one_place(
    frames: int, of_frame: int, protected: int, places: int, depth: int, kept: float, anchored: bool
) -> None:
    blocks = Blocks(frames * of_frame, frames, protected, places, depth, kept, anchored)
    cut = blocks.cut()
    there = [token for block in cut for part in (block.destinations, block.sources) for token in part]
    expected = [token for token in range(frames * of_frame) if token % of_frame >= protected]
    assert sorted(there) == expected
    assert all(block.destinations for block in cut)
    destinations = {token for block in cut for token in block.destinations}
    assert not anchored or set(range(protected, of_frame)) <= destinations


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((10, 3, 0, 1, 1, 0.5), "10 tokens are no 3 frames"),
        ((10, 2, 5, 1, 1, 0.5), "5 of a frame's 5 tokens are protected: allowed: 0 to 4"),
        ((10, 2, 0, 0, 1, 0.5), "blocks are of 0 tokens by 1 frames"),
        ((10, 2, 0, 1, 1, 0.0), "a share of 0.0 of the tokens is kept"),
    ],
)
def test_what_is_out_of_range(values: tuple[int, int, int, int, int, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Blocks(*values, anchored=False)
