"""Tensors of -1, 0 and 1 in 2 bits an element."""

import numpy as np
import pytest

from haste_compiler.runtime.artifact_ternary import is_ternary, pack_ternary, unpack_ternary


@pytest.mark.parametrize("shape", [(1,), (3,), (4,), (5, 7), (2, 3, 1, 4)])
def test_what_is_packed_comes_back(shape: tuple[int, ...]) -> None:
    values = np.random.RandomState(0).randint(-1, 2, shape).astype(np.int8)
    packed = pack_ternary(values)
    assert packed.nbytes == -(-values.size // 4)
    np.testing.assert_array_equal(unpack_ternary(packed, shape), values)


def test_where_elements_lie() -> None:
    """As docs/artifacts.md says, for readers in other languages."""
    assert pack_ternary(np.array([-1, 0, 1, 1, 1], np.int8)).tolist() == [0b10_10_01_00, 0b10]


def test_only_small_integers_are_ternary() -> None:
    assert is_ternary(np.array([0, 1], np.int8))
    for others in (np.array([0, 2], np.int8), np.array([-2, 0], np.int8), np.array([0, 1], np.int32), np.zeros(0)):
        assert not is_ternary(others)


@pytest.mark.parametrize(
    ("packed", "shape", "why"),
    [
        (np.zeros(2, np.uint8), (4,), "is packed as uint8"),
        (np.zeros(1, np.int8), (4,), "is packed as int8"),
        (np.full(1, 0b11, np.uint8), (1,), "holds something else"),
    ],
)
def test_what_cannot_have_been_packed_is_refused(packed: np.ndarray, shape: tuple[int, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        unpack_ternary(packed, shape)
