"""The cache is the user's own, stays within its limit, and says once what is wrong with it."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from haste_compiler.cache import entries, notices
from haste_compiler.cache.folder import Folder

ROOT = Path(__file__).parents[2]
NOBODY = 65534
KEYS = [f"{number:040x}.so" for number in range(8)]
COSTS = f"costs-{0:040x}.json"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HASTE_CACHE", str(tmp_path / "home" / "cache"))
    monkeypatch.setattr(notices, "_said", set())
    return tmp_path / "home" / "cache"


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def put(name: str, data: bytes = b"data") -> None:
    entries.write(name, lambda folder: data)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def warned(caplog: pytest.LogCaptureFixture) -> str:
    """The one line that was said."""
    (record,) = caplog.records
    text = record.getMessage()
    assert "\n" not in text
    return text


def test_what_is_written_is_read(cache: Path) -> None:
    assert entries.read(KEYS[0]) is None and entries.entries() == [] and not cache.exists()
    put(KEYS[0], b"code")
    entries.write_json(COSTS, {"a": [1.5]})
    assert entries.read(KEYS[0]) == b"code" and entries.read_json(COSTS) == {"a": [1.5]}
    assert sorted(path.name for path in cache.iterdir()) == [KEYS[0], COSTS]
    with pytest.raises(ValueError, match="the cache holds no"):
        entries.read_json(f"tuning-{0:040x}.json")


@pytest.mark.usefixtures("no_umask")
def test_nobody_else_may_enter_whatever_the_umask(cache: Path) -> None:
    put(KEYS[0])
    assert mode(cache) == 0o700 and mode(cache.parent) == 0o700 and mode(cache / KEYS[0]) == 0o600


@pytest.mark.parametrize("bits", [0o020, 0o002])
def test_a_folder_that_others_can_write_to(cache: Path, caplog: pytest.LogCaptureFixture, bits: int) -> None:
    put(KEYS[0])
    cache.chmod(0o700 | bits)
    for _ in range(2):
        assert entries.read(KEYS[0]) is None
        put(KEYS[1])
    assert f"the cache {cache} isn't used (others can write to it (mode 07{bits:02o}))" in warned(caplog)
    assert [path.name for path in cache.iterdir()] == [KEYS[0]] and entries.clean() == []


@as_root
def test_a_folder_of_another_user(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(KEYS[0])
    os.chown(cache, NOBODY, NOBODY)
    assert entries.read(KEYS[0]) is None
    put(KEYS[1])
    assert f"isn't used (it belongs to user {NOBODY}, and this process to user 0)" in warned(caplog)
    assert [path.name for path in cache.iterdir()] == [KEYS[0]]


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.chmod(0o620), r"others can write to it \(mode 0620\)"),
        (lambda path: path.chmod(0o602), r"others can write to it \(mode 0602\)"),
        pytest.param(lambda path: os.chown(path, NOBODY, -1), f"it belongs to user {NOBODY}", marks=as_root),
        (fifo, "it is no plain file"),
        (folder, "it is no plain file"),
        (link, "Too many levels of symbolic links"),
    ],
)
def test_a_file_that_is_not_trusted(
    cache: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], reason: str
) -> None:
    put(COSTS, b"{}")
    spoil(cache / COSTS)
    assert entries.read(COSTS) is None and entries.read(COSTS) is None
    assert re.search(f"{re.escape(str(cache / COSTS))} in the cache isn't used: {reason}", warned(caplog))


@pytest.mark.parametrize("spoil", [lambda path: path.chmod(0o666), fifo, link])
def test_what_is_not_trusted_is_replaced(cache: Path, spoil: Callable[[Path], None]) -> None:
    put(KEYS[0], b"planted")
    spoil(cache / KEYS[0])
    put(KEYS[0], b"made anew")
    assert entries.read(KEYS[0]) == b"made anew" and mode(cache / KEYS[0]) == 0o600
    if spoil is link:
        assert (cache / "elsewhere").read_bytes() == b"planted"


def test_a_cache_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notices, "_said", set())
    monkeypatch.setenv("HASTE_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("in the way")
    for _ in range(2):
        put(KEYS[0])
        assert entries.read(KEYS[0]) is None
    assert "isn't used (Not a directory): every process compiles and measures anew" in warned(caplog)


UNWRITABLE = f"""
import resource
from haste_compiler.cache import entries
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
for _ in range(2):
    entries.write("{COSTS}", lambda folder: b"{{}}")
    assert entries.read("{KEYS[0]}") == b"data", "not read"
"""


def test_a_cache_that_can_only_be_read(cache: Path) -> None:
    """It is used, and that nothing is kept in it is said in one line."""
    put(KEYS[0])
    done = subprocess.run([sys.executable, "-c", UNWRITABLE], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1 and f"{cache} can't be written (File too large)" in done.stderr
    assert [path.name for path in cache.iterdir()] == [KEYS[0]]


def test_a_full_disk_leaves_nothing_behind(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(KEYS[0])

    def fail(folder: Folder) -> bytes:
        with folder.working() as place:
            (place / "half").write_bytes(b"half")
            raise OSError(28, "No space left on device")

    entries.write(KEYS[1], fail)
    assert "can't be written (No space left on device)" in warned(caplog)
    assert [path.name for path in cache.iterdir()] == [KEYS[0]]


KILLED = f"""
import os, signal
from haste_compiler.cache import entries
def die(folder):
    with folder.working() as place:
        (place / "half").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
entries.write("{KEYS[0]}", die)
"""


def test_what_a_killed_process_left_is_swept(cache: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], timeout=60, cwd=ROOT)
    (left,) = cache.iterdir()
    assert done.returncode == -signal.SIGKILL and (left / "half").exists()
    with Folder(cache) as open_folder, open_folder.working() as place:
        then = time.time() - 60
        for each in (left, place):
            os.utime(each, (then, then))
        put(KEYS[0])
        # What another one is still at work on stays.
        assert sorted(cache.iterdir()) == sorted([cache / KEYS[0], place])
    assert list(cache.iterdir()) == [cache / KEYS[0]]


def test_the_least_recently_used_goes_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASTE_CACHE_SIZE", "350")
    entries.write_json(COSTS, {})
    for age, key in enumerate(KEYS[:3]):
        put(key, bytes(100))
        os.utime(cache / key, (1000 + age, 1000 + age))
    os.utime(cache / COSTS, (1, 1))
    assert entries.read(KEYS[0]) is not None
    (cache / "mine.txt").write_bytes(bytes(1000))
    put(KEYS[3], bytes(100))
    # The second was used longest ago, but for the measurements, which are small and dear.
    left = [entry.name for entry in entries.entries()]
    assert left == [COSTS, KEYS[2], KEYS[0], KEYS[3]] and (cache / "mine.txt").exists()


def test_what_is_larger_than_the_limit_drives_nothing_out(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HASTE_CACHE_SIZE", "350")
    put(KEYS[0], bytes(100))
    for _ in range(2):
        put(KEYS[1], bytes(400))
    assert f"{KEYS[1]} isn't kept in the cache: it has 400 bytes, HASTE_CACHE_SIZE is 350" in warned(caplog)
    assert [path.name for path in cache.iterdir()] == [KEYS[0]]


def test_cleaning_takes_only_what_is_the_caches(cache: Path) -> None:
    put(KEYS[0])
    entries.write_json(COSTS, {})
    (cache / "mine.so").write_bytes(b"")
    assert {entry.name for entry in entries.clean()} == {KEYS[0], COSTS}
    assert [path.name for path in cache.iterdir()] == ["mine.so"] and entries.clean() == []
