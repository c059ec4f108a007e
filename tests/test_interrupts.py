"""Ctrl-C, at any instant of a compile, is `KeyboardInterrupt`, and the next compile works."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from haste_compiler.interrupts import check_interrupt, deferred_interrupts

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("times", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_compiles_that_are_interrupted(times: int, tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "tests.interrupted", str(times)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout.splitlines()[-1])
    assert found.pop("interrupted") > 0, made.stderr
    assert found == {"wrong": 0, "children": 0, "left": []}, made.stderr


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_command_that_is_interrupted(times: int, tmp_path: Path) -> None:
    draw, command = random.Random(1), [sys.executable, "-m", "haste_compiler.cli", "compile"]
    for number in range(times):
        running = subprocess.Popen(
            [*command, "haste_compiler.demo:load_network", "--input", "1x1x32x32", "-o", tmp_path / "net.haste"],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(tmp_path), "HASTE_CACHE": str(tmp_path / f"cache{number}")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # Before that it is Python that is interrupted, not this package.
        time.sleep(0.7 + draw.uniform(0, 4))
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=120)[1]
        assert running.returncode == 130 and said.splitlines()[-1] == "interrupted", said
        assert "Traceback" not in said
        assert not [path for path in tmp_path.rglob("*") if "tmp" in path.name or path.name == "net.haste"]


def _interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_waits_for_the_end() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():
        _interrupt()
        reached.append("end")
    assert reached and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_comes_in_place_of_an_error() -> None:
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():
        _interrupt()
        raise RuntimeError("what TVM makes of it")


def test_an_interrupt_comes_where_it_is_asked_for() -> None:
    with pytest.raises(KeyboardInterrupt), deferred_interrupts(), deferred_interrupts():
        _interrupt()
        check_interrupt()
        pytest.fail("it was to be raised")


def test_a_second_interrupt_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():
        _interrupt()
        _interrupt()
        pytest.fail("it was to be raised")


def test_other_threads_and_handlers_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []
    signal.signal(signal.SIGINT, lambda *_: seen.append("mine"))
    try:
        with deferred_interrupts():
            _interrupt()
            assert not seen
        assert seen == ["mine"]
        handler = signal.getsignal(signal.SIGINT)

        def elsewhere() -> None:
            with deferred_interrupts():
                seen.append("same" if signal.getsignal(signal.SIGINT) is handler else "other")

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert seen[-1] == "same"
    finally:
        signal.signal(signal.SIGINT, before)
