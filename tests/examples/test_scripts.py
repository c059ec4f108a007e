"""The example scripts run as they are, and what they print holds."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from examples import (
    compress_torchvision,
    deploy_artifact,
    onnx_int8,
    search_budget,
    steer,
    token_merging,
    video_stream,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """Runs a script in an empty folder and returns the lines that it prints."""
    monkeypatch.chdir(tmp_path)

    def run(main: Callable[[list[str]], None], *arguments: str) -> list[str]:
        main(list(arguments))
        return capsys.readouterr().out.splitlines()

    return run


def _numbers(lines: list[str], pattern: str) -> list[float]:
    return [float(found[1]) for line in lines if (found := re.search(pattern, line))]


def test_compress_torchvision(printed: Callable[..., list[str]]) -> None:
    lines = printed(compress_torchvision.main, "--images", "8", "--ways", "int8", "--save", "int8")
    assert _numbers(lines, r"same class ([\d.]+)%") == [100.0]
    assert Path("int8.haste").is_file()


def test_onnx_int8(printed: Callable[..., list[str]]) -> None:
    lines = printed(onnx_int8.main)
    assert 0 < _numbers(lines, r"output error ([\d.]+)%")[0] < 5


def test_steer(printed: Callable[..., list[str]]) -> None:
    lines = printed(steer.main, "--tolerances", "0.1", "0.8")
    saved, errors = _numbers(lines, r": (-?[\d.]+)% saved"), _numbers(lines, r"error ([\d.e-]+)")
    assert len(saved) == 2 and saved[0] < saved[1] and errors[0] < errors[1]


@pytest.mark.slow
def test_search_budget(printed: Callable[..., list[str]]) -> None:
    lines = printed(search_budget.main)
    assert any("chosen" in line for line in lines) and Path("best.json").is_file()


def test_video_stream(printed: Callable[..., list[str]]) -> None:
    work = _numbers(printed(video_stream.main, "--frames", "3"), r": ([\d.]+)% of the work")
    assert work[0] == 100 and max(work[1:]) < 100


def test_token_merging(printed: Callable[..., list[str]]) -> None:
    assert _numbers(printed(token_merging.main), r"^([\d.]+)% of the multiply-adds saved")[0] > 0


def test_deploy_artifact(printed: Callable[..., list[str]]) -> None:
    assert printed(deploy_artifact.main)[-1].endswith("the same bits without PyTorch: True")


def test_ci_check() -> None:
    command = [sys.executable, "-m", "examples.ci_check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout


def test_every_example_is_in_the_index() -> None:
    index = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    scripts = [path.name for path in (ROOT / "examples").glob("*.py") if "__main__" in path.read_text()]
    assert scripts and [name for name in scripts if f"(../examples/{name})" not in index] == []
