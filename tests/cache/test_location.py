"""What the environment says of the cache."""

from pathlib import Path

import pytest

from haste_compiler import ConfigError
from haste_compiler.cache.location import cache_directory, size_limit


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASTE_CACHE", "/some/where")
    assert cache_directory() == Path("/some/where")
    monkeypatch.delenv("HASTE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_directory() == Path("/caches/haste-compiler")


@pytest.mark.parametrize(
    ("given", "size"),
    [("", 10**9), ("0", 0), ("12345", 12345), ("500M", 500 * 10**6), ("1.5G", 1500 * 10**6), ("2kb", 2000)],
)
def test_sizes(monkeypatch: pytest.MonkeyPatch, given: str, size: int) -> None:
    monkeypatch.setenv("HASTE_CACHE_SIZE", given)
    assert size_limit() == size


@pytest.mark.parametrize("given", ["much", "-1", "1 P", "G", "1e9", "nan"])
def test_what_is_no_size(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("HASTE_CACHE_SIZE", given)
    with pytest.raises(ConfigError, match=r"HASTE_CACHE_SIZE is .*: allowed is a size such as 500M"):
        size_limit()
