"""A spoiled file is refused with an error that names it, or does no harm; it never crashes the process."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.demo import load_network
from tests.methods.haste.networks import redundant_images
from tests.runtime.corruption import outcome

ROOT = Path(__file__).parents[2]
BATCH = 50
"""Files that one process loads."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "net.haste"
    images = redundant_images(1, 1, 32, 32, seed=1)
    haste_compiler.compile(load_network(), (images,), config=HasteConfig(cost_model=False), threads=1).save(path)
    return path


def check(file: Path, folder: Path, first: int, last: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for start in range(first, last, BATCH):
        arguments = [str(file), str(folder), str(start), str(min(start + BATCH, last))]
        command = [sys.executable, "-m", "tests.runtime.corruption", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
        lines = done.stdout.splitlines()
        assert done.returncode == 0, f"exit code {done.returncode} at {lines[-1:]}: {done.stderr[-2000:]}"
        for line in lines:
            seed, how, result = line.split(" ", 2)
            assert result in ("refused", "harmless"), f"seed {seed}, {how}: {result}"
            found[result] += 1
    return found


def test_fifty_spoiled_files(file: Path, tmp_path: Path) -> None:
    found = check(file, tmp_path, 0, BATCH)
    assert found.total() == BATCH and found["refused"] >= 40


@pytest.mark.parametrize(
    ("signature", "offset", "value"),
    [
        (b"PK\x01\x02", 6, 73),  # version that is needed, in the directory
        (b"PK\x01\x02", 8, 1),  # flags: encrypted
        (b"PK\x01\x02", 10, 8),  # method: deflated
        (b"PK\x01\x02", 10, 14),  # method: LZMA
        (b"PK\x01\x02", 10, 99),  # method: unknown
        (b"PK\x01\x02", 9, 8),  # flags: names in UTF-8
        (b"PK\x05\x06", 16, 255),  # where the directory begins
    ],
)
def test_headers_that_zipfile_stumbles_over(
    file: Path, tmp_path: Path, signature: bytes, offset: int, value: int
) -> None:
    data = bytearray(file.read_bytes())
    data[data.rindex(signature) + offset] = value
    path = tmp_path / "spoiled.haste"
    path.write_bytes(data)
    x = np.random.default_rng(0).standard_normal((1, 1, 32, 32), np.float32)
    assert outcome(path, x, haste_compiler.load(file)(x).tobytes()) in ("refused", "harmless")


@pytest.mark.slow
def test_a_thousand_spoiled_files(file: Path, tmp_path: Path) -> None:
    found = check(file, tmp_path, 1000, 2000)
    assert found.total() == 1000 and found["refused"] >= 900
