"""Files with right checksums and wrong contents are refused in the project's words, or do no harm."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.runtime.alterations import chosen, save_all

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


@pytest.mark.slow
def test_five_thousand_altered_files(folder: Path) -> None:
    assert len(chosen(folder)) > 5000
    check(folder, 5000)
