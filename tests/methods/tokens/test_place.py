"""Where tokens are in a tensor that got another shape, against an index that is followed."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from haste_compiler.methods.tokens.place import Place


@st.composite
def shapes(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Two shapes of as many elements."""
    factors = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))

    def grouped() -> list[int]:
        sizes, cuts = [1], draw(st.lists(st.booleans(), min_size=len(factors), max_size=len(factors)))
        for factor, cut in zip(factors, cuts, strict=True):
            sizes[-1] *= factor
            if cut:
                sizes.append(1)
        return sizes

    return grouped(), grouped()


@given(shapes(), st.data())
def test_a_place_that_is_followed_is_where_the_tokens_are(
    sizes: tuple[list[int], list[int]], data: st.DataObject
) -> None:
    before, after = sizes
    axis = data.draw(st.integers(0, len(before) - 1))
    slower = data.draw(st.sampled_from([n for n in range(1, before[axis] + 1) if before[axis] % n == 0]))
    rest = before[axis] // slower
    count = data.draw(st.sampled_from([n for n in range(1, rest + 1) if rest % n == 0]))
    place = Place(axis, slower, rest // count)
    found = place.reshaped(count, before, after)
    if found is None:
        return
    assert after[found.axis] == found.before * count * found.after
    token = torch.empty(*before[:axis], place.before, count, place.after, *before[axis + 1 :], dtype=torch.int64)
    token[...] = torch.arange(count).view(-1, *[1] * (len(before) - axis))
    split = [*after[: found.axis], found.before, count, found.after, *after[found.axis + 1 :]]
    expected = torch.arange(count).view(-1, *[1] * (len(split) - found.axis - 2)).expand(split)
    assert torch.equal(token.reshape(split), expected)


def test_tokens_that_are_torn_apart() -> None:
    assert Place(1).reshaped(6, (2, 6, 4), (2, 2, 3, 4)) is None
    assert Place(1).reshaped(6, (2, 6, 4), (12, 4)) == Place(0, 2, 1)
    assert Place(0, 2, 1).reshaped(6, (12, 4), (2, 6, 4)) == Place(1)
    assert Place(1).permuted([1, 0, 2]) == Place(0)
