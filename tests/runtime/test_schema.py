"""What a value must be: the place of what is wrong is named, and what is allowed."""

import math
from typing import Any

import pytest

from haste_compiler.runtime import schema

CHECK = schema.fields(
    {
        "count": schema.integer(1, 9),
        "names": schema.sequence(schema.text, 1),
        "pair": schema.entries(schema.flag, schema.optional(schema.number)),
    },
    {"kinds": schema.mapping(schema.one_of("a", "b"))},
)
GOOD: dict[str, Any] = {"count": 3, "names": ["x"], "pair": [True, None], "kinds": {"first": "a"}}


def test_what_is_right() -> None:
    CHECK(GOOD, "it")
    CHECK({name: value for name, value in GOOD.items() if name != "kinds"}, "it")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, r"it\.count is 0: allowed is a whole number from 1 to 9"),
        ({"count": True}, r"it\.count is True: allowed is a whole number"),
        ({"count": 3.0}, r"it\.count is 3\.0"),
        ({"names": []}, r"it\.names is \[\]: allowed is a list of at least 1 values"),
        ({"names": ["x", 1]}, r"it\.names\[1\] is 1: allowed is text"),
        ({"names": "x"}, r"it\.names is 'x': allowed is a list"),
        ({"pair": [True]}, r"it\.pair is \[True\]: allowed is a list of 2 values"),
        ({"pair": [1, 2]}, r"it\.pair\[0\] is 1: allowed is true or false"),
        ({"pair": [True, math.inf]}, r"it\.pair\[1\] is inf: allowed is a finite number"),
        ({"kinds": {"first": "c"}}, r"it\.kinds\['first'\] is 'c': allowed is 'a', 'b'"),
        ({"kinds": {"first": ["a"]}}, r"it\.kinds\['first'\] is \['a'\]"),
        ({"kinds": []}, r"it\.kinds is \[\]: allowed is a mapping"),
        ({"more": 1}, "it has a field 'more': known are count, names, pair, kinds"),
        ({"names": ["x" * 100] * 2 + [5] * 100}, r"it\.names\[2\] is 5"),
        ({"names": "x" * 100}, r"it\.names is '" + "x" * 56 + r"\.\.\.: allowed is a list"),
    ],
)
def test_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CHECK({**GOOD, **change}, "it")


def test_what_is_missing() -> None:
    with pytest.raises(ValueError, match="it has no 'count'"):
        CHECK({}, "it")
    with pytest.raises(ValueError, match="it is 3: allowed is a mapping of count, names, pair, kinds"):
        CHECK(3, "it")
