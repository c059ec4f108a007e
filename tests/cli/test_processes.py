"""``haste validate`` under torchrun: two processes say what one says, bit for bit, and fail together."""

import datetime
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from haste_compiler.cli.processes import joined_processes
from haste_compiler.demo import load_network
from haste_compiler.errors import HasteError
from tests.cli.conftest import Haste
from tests.methods.haste.networks import redundant_images

MODEL = ("haste_compiler.demo:load_network", "--input", "3x1x32x32", "--threads", "1", "--no-cost-model")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Eleven images, in calls of three: the last call has two, and is one process's fourth, the other's second."""
    pixels = redundant_images(11, 1, 32, 32, seed=3)
    labels = load_network().eval()(pixels).argmax(dim=1)
    labels[::4] = (labels[::4] + 1) % 10
    np.savez(tmp_path / "images.npz", images=pixels.numpy(), labels=labels.numpy())
    return tmp_path / "images.npz"


def validate_in_two(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "haste_compiler.cli", "validate", *MODEL, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)


def test_two_processes_say_what_one_says(haste: Haste, images: Path, tmp_path: Path) -> None:
    arguments = ("--images", images, "--no-time", "--json")
    code, out, _ = haste("validate", *MODEL, *arguments)
    one = json.loads(out)
    assert code == 0 and one["batches"] == 4 and one["images"] == 11 and one["accuracy"]["images"] == 11
    two = validate_in_two(*arguments, "--junit-xml", tmp_path / "report.xml")
    assert two.returncode == 0, two.stderr
    # The first process alone prints: what it printed is one JSON value.
    assert json.loads(two.stdout) == one
    assert two.stderr.count("validating on 11 images, shared by 2 processes") == 1
    assert (tmp_path / "report.xml").read_text().count("<testcase") == 1


@pytest.mark.slow
def test_all_fall_short_together(images: Path) -> None:
    done = validate_in_two("--images", images, "--rounds", 1, "--json", "--max-rel-error", 1e-9)
    assert done.returncode != 0
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["missed"].startswith("max_rel_error is") and report["times"]["rounds"] == 1
    assert f"error: {report['missed']}" in done.stderr
    # torchrun says of the process that ended first how it ended; none is left waiting for another.
    assert "exitcode  : 1 " in done.stderr and "Traceback" not in done.stderr.split("torch/distributed")[0]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but the process group can't be made: RANK is not set. Start with"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE is two, but the process group can't be made: invalid literal"),
    ],
)
def test_a_group_that_cant_be_made(
    haste: Haste, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, out, err = haste("validate", *MODEL, "--images", "random")
    assert code == 2 and not out and message in err and err.count("\n") == 1


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr("haste_compiler.cli.processes._PATIENCE", datetime.timedelta(seconds=2))
    for name, value in {"WORLD_SIZE": 2, "RANK": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    with (
        pytest.raises(HasteError, match=r"WORLD_SIZE is 2, but the process group can't be made: .*Start with"),
        joined_processes(),
    ):
        pass


def test_one_process_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined_processes() as processes:
        assert (processes.rank, processes.size) == (0, 1) and not torch.distributed.is_initialized()
