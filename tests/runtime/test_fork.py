"""A network that was called with two threads gives the same bits in a forked process, and never hangs there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["calls", "leaving"])
def test_forked_processes(name: str) -> None:
    # In a process of its own: threads of PyTorch's that these tests have used would be gone in the children.
    made = subprocess.run(
        [sys.executable, "-m", "tests.runtime.forked", name], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout.splitlines()[-1])
    assert found and set(found.values()) == {"same"}, (found, made.stderr)
