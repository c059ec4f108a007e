"""The cache of machine code: what others may have written doesn't run, what is no good is made anew."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.cache import notices

DENSE = HasteConfig(enabled=False)
NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
with_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")

SOURCE = """
#include <cstdio>
static int planted = [] { return std::fclose(std::fopen("%s", "w")); }();
"""


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one library in a cache of its own."""
    monkeypatch.setenv("HASTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(notices, "_said", set())
    check()
    (path,) = (tmp_path / "cache").iterdir()
    return path


def check() -> None:
    """Compile, and compute what the model computes."""
    torch.manual_seed(0)
    model, x = nn.Conv2d(8, 8, 3).eval(), torch.randn(1, 8, 9, 9)
    compiled = haste_compiler.compile(model, (x,), config=DENSE, threads=1)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


def plant(path: Path, library: bytes) -> bytes:
    """Write a library as the cache does, with its checksum."""
    data = library + hashlib.sha256(path.stem.encode() + library).digest()
    path.write_bytes(data)
    return data


@pytest.fixture
def foreign(tmp_path: Path) -> bytes:
    """A library that leaves a trace when it is loaded, and is no network's."""
    (tmp_path / "foreign.cpp").write_text(SOURCE % (tmp_path / "trace"))
    command = ["g++", "-shared", "-fPIC", "-o", str(tmp_path / "foreign.so"), str(tmp_path / "foreign.cpp")]
    subprocess.run(command, check=True)
    return (tmp_path / "foreign.so").read_bytes()


@with_compiler
@pytest.mark.parametrize(
    "expose",
    [
        lambda path: path.chmod(0o622),
        lambda path: path.parent.chmod(0o777),
        pytest.param(lambda path: os.chown(path, NOBODY, -1), marks=as_root),
        pytest.param(lambda path: os.chown(path.parent, NOBODY, -1), marks=as_root),
    ],
)
def test_what_others_may_have_planted_does_not_run(
    stored: Path, foreign: bytes, tmp_path: Path, expose: Callable[[Path], None]
) -> None:
    plant(stored, foreign)
    expose(stored)
    check()
    assert not (tmp_path / "trace").exists()


@with_compiler
def test_a_library_that_is_no_networks_is_replaced(stored: Path, foreign: bytes, tmp_path: Path) -> None:
    planted = plant(stored, foreign)
    check()
    # The user's own file is trusted: it is looked into by loading it.
    assert (tmp_path / "trace").exists() and stored.read_bytes() != planted
    (tmp_path / "trace").unlink()
    check()
    assert not (tmp_path / "trace").exists()


def test_what_cannot_be_loaded_is_replaced(stored: Path) -> None:
    planted = plant(stored, b"no library")
    check()
    assert stored.read_bytes() != planted


def test_code_under_another_ones_name_is_replaced(stored: Path) -> None:
    mine = stored.read_bytes()
    moved = stored.with_name(f"{0:040x}.so")
    stored.rename(moved)
    stored.write_bytes(plant(moved, mine[:-32]))
    check()
    assert stored.read_bytes()[-32:] == mine[-32:]


def test_nothing_but_the_library_is_left(stored: Path) -> None:
    assert list(stored.parent.iterdir()) == [stored] and stored.stat().st_mode & 0o777 == 0o600
