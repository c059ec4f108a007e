"""Prices of multiply-adds: sums of the published tables' entries."""

import pytest

from haste_compiler.energy.arithmetic import ARITHMETICS, BFLOAT16, FLOAT16, INT8, PICOJOULES, TERNARY
from haste_compiler.errors import InputError


def test_a_multiply_add_is_one_multiplication_and_one_addition() -> None:
    assert FLOAT16.multiply_add("45nm") == pytest.approx(1.1 + 0.4)
    assert INT8.multiply_add("7nm") == pytest.approx(0.07 + 0.007)
    assert INT8.multiply_add("7nm", "wide") == pytest.approx(0.07 + 0.03)


def test_ternary_weights_need_no_multiplication() -> None:
    assert TERNARY.multiply_add("7nm") == pytest.approx(0.007)
    assert TERNARY.multiply_add("45nm", "wide") == pytest.approx(0.1)


def test_what_is_not_published_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="bfloat16 at 45nm isn't published"):
        BFLOAT16.multiply_add("45nm")
    with pytest.raises(InputError, match="one of 45nm, 7nm, not '3nm'"):
        INT8.multiply_add("3nm")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="narrow or wide, not 'exact'"):
        INT8.multiply_add("7nm", "exact")  # type: ignore[arg-type]


def test_every_arithmetic_has_a_price_at_7_nm() -> None:
    for arithmetic in ARITHMETICS.values():
        assert 0 < arithmetic.multiply_add("7nm") <= arithmetic.multiply_add("7nm", "wide")


def test_smaller_transistors_take_less() -> None:
    for operation, price in PICOJOULES["45nm"].items():
        assert PICOJOULES["7nm"][operation] < price
