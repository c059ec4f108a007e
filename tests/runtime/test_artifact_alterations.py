"""Files with right checksums and wrong contents are refused in the project's words, or do no harm."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import haste_compiler
from haste_compiler import ArtifactError
from tests.runtime.alterations import INPUTS, chosen, read, save_all, write

ROOT = Path(__file__).parents[2]
_MOST_CRASHES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("altered")
    save_all(made)
    return made


def check(folder: Path, last: int) -> None:
    """Go through the alterations in one process, and in another one from where it died."""
    lines: list[str] = []
    crashed: list[str] = []
    while len(lines) < last and len(crashed) < _MOST_CRASHES:
        command = [sys.executable, "-m", "tests.runtime.alterations", str(folder), str(len(lines)), str(last)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=1200)
        lines += done.stdout.splitlines()
        if done.returncode != 0:
            crashed.append(f"exit code {done.returncode} at {lines[-1:]}: {done.stderr[-500:]}")
    wrong = [line for line in lines if line.split(" ", 2)[2] not in ("refused", "harmless")]
    assert not crashed and not wrong, "\n".join(crashed + wrong)
    found = Counter(line.split(" ")[2] for line in lines)
    assert found.total() == last and found["refused"] > 0.75 * last and found["harmless"] > 0


def test_three_hundred_altered_files(folder: Path) -> None:
    check(folder, 300)


@pytest.mark.parametrize("left", [0, 1])
def test_what_pytorch_runs_is_not_all_described(folder: Path, left: int) -> None:
    """The machine code calls it by a number that isn't there."""
    manifest, parts = read(folder / "mixed.haste")
    fallbacks = manifest["specializations"][0]["fallbacks"]
    assert len(fallbacks) == 2
    del fallbacks[left:]
    write(folder / "fewer.haste", manifest, parts)
    loaded = haste_compiler.load(folder / "fewer.haste")
    for use in (loaded, loaded.stats, loaded.profile):
        with pytest.raises(ArtifactError, match=r"fewer\.haste describes another network .* that isn't described"):
            use(*INPUTS["mixed"])


@pytest.mark.slow
def test_five_thousand_altered_files(folder: Path) -> None:
    assert len(chosen(folder)) > 5000
    check(folder, 5000)
