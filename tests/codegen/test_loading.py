"""A library runs from the bytes that were checked, and none is taken for another."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from tvm import relax

import haste_compiler
from haste_compiler import HasteError
from haste_compiler.codegen.loading import Library

X = np.ones((1, 4, 12, 12), np.float32)
SIDES = (6, 4)
"""Of what the two networks return."""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Two networks without weights."""
    folder, made = tmp_path_factory.mktemp("libraries"), []
    for side in SIDES:
        compiled = haste_compiler.compile(nn.AvgPool2d(12 // side), (torch.from_numpy(X),), threads=1, cache=False)
        compiled._last().executable.code.write_library(folder / "library.so")
        made.append((folder / "library.so").read_bytes())
        assert [path.name for path in folder.iterdir()] == ["library.so"]
    return made


def side(library: Library) -> int:
    (y,) = relax.VirtualMachine(library.module, tvm.cpu())["main"](tvm.runtime.tensor(X))
    return int(y.shape[-1])


@pytest.mark.parametrize("memory", [True, False])
def test_each_is_itself(libraries: list[bytes], memory: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Descriptors are closed at once and have the same number: the loader must not take one for another by its path."""
    if not memory:
        monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    loaded = [Library(data) for data in (*libraries, *libraries)]
    assert [side(library) for library in loaded] == [*SIDES, *SIDES]
    assert len({library.path for library in loaded}) == 4
    assert len(os.listdir("/proc/self/fd")) == before and not list(tmp_path.iterdir())


def test_what_is_no_library() -> None:
    with pytest.raises(HasteError, match=r"the machine code can't be loaded: .*too short"):
        Library(b"no library")
