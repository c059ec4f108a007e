"""A machine that is busy with something else is not taken for a slow one."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.target import parse_target
from haste_compiler.cost import calibration, contention
from haste_compiler.cost.calibration import cost_model
from haste_compiler.methods.haste.method import Haste

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how long threads waited")

BUSY = """
import hashlib, os, threading, time
from haste_compiler.cost.contention import seconds_waited

def work():
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:
        hashlib.sha256(data).digest()

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
data = bytes(1 << 20)
before = seconds_waited()
threading.Thread(target=work).start()
work()
print(seconds_waited() - before)
"""


def test_threads_that_share_a_core_wait_for_each_other() -> None:
    """Two threads on one core wait for about as long as they run, half a second between them."""
    done = subprocess.run([sys.executable, "-c", BUSY], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0.2


def test_a_machine_is_not_busy_because_a_thread_waits_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of several calls counts: one that nothing disturbed is enough."""
    found = contention.Contention()
    assert found.share == 0
    for waited in ([0.5, 0.0, 0.9], [0.0, 0.02], [0.01]):
        found.note(waited)
    assert found.share == 0
    found.note([0.04, 0.5])
    assert found.share == 0.25
    clock = iter((1.0, 3.0, None, 3.0))
    monkeypatch.setattr(contention, "seconds_waited", lambda: next(clock))
    result, waited_share = contention.timed(lambda: "result")
    assert result == "result" and waited_share > 1
    assert contention.timed(lambda: 1) == (1, 0.0)


def test_what_a_busy_machine_took_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The clock of waiting is the part that a test can't command: it is wound forward."""
    monkeypatch.setenv("HASTE_CACHE", str(tmp_path))
    monkeypatch.setattr(Haste, "calibration", lambda self, machine: ())
    monkeypatch.setattr(calibration, "_DENSE", calibration._DENSE[-1:])
    target, growing, still = parse_target("llvm"), itertools.count(0.0, 1e6), itertools.repeat(2.0)
    monkeypatch.setattr(contention, "seconds_waited", lambda: next(growing))

    calibration._models.clear()
    assert cost_model(Cpu(target, 2)).source == "defaults of the package"
    assert "busy" in caplog.text and not list(tmp_path.glob("costs-*.json"))

    # Another process doesn't try again at once, but after an hour.
    (busy,) = tmp_path.glob("costs-*.busy")
    measured = len(caplog.records)
    calibration._models.clear()
    assert cost_model(Cpu(target, 2)).source == "defaults of the package" and len(caplog.records) == measured
    os.utime(busy, (time.time() - 4000,) * 2)

    calibration._models.clear()
    monkeypatch.setattr(contention, "seconds_waited", lambda: next(still))
    assert cost_model(Cpu(target, 2)).source == "calibrated on this machine"
    assert len(list(tmp_path.glob("costs-*.json"))) == 1

    # A single thread is timed by its own clock.
    monkeypatch.setattr(contention, "seconds_waited", lambda: next(growing))
    assert cost_model(Cpu(target, 1)).source == "calibrated on this machine"
    calibration._models.clear()
