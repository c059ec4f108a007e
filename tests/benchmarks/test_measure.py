"""The benchmark's own arithmetic: what it times, what it refuses, how it reports."""

import json
import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from benchmarks import runners
from benchmarks.cases import CASES, TITLES, Case
from benchmarks.measure import Measurement, measure, relative_error
from benchmarks.memory import Memory
from benchmarks.report import Result, machine, markdown


def small_case() -> Case:
    return Case(nn.Conv2d(4, 8, 3).eval(), [torch.randn(1, 4, 9, 9), torch.randn(1, 4, 9, 9)])


def test_runners_that_agree_with_eager_are_timed() -> None:
    done = measure(small_case(), ["eager", "channels_last"], threads=1, rounds=3)
    assert [m.runner for m in done] == ["eager", "channels_last"]
    for m in done:
        assert not m.failure and 0 < m.best <= m.median and m.error < 1e-5


def test_wrong_and_failing_runners_get_a_reason_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: nn.Module, x: Tensor, threads: int) -> runners.Runner:
        return runners.Runner(lambda t: model(t) + 1)

    def absent(model: nn.Module, x: Tensor, threads: int) -> runners.Runner:
        raise ImportError("not here\nsecond line")

    monkeypatch.setitem(runners.PEERS, "inductor", wrong)
    monkeypatch.setitem(runners.PEERS, "openvino", absent)
    done = {m.runner: m for m in measure(small_case(), ["inductor", "openvino", "eager"], threads=1, rounds=2)}
    assert "wrong" in done["inductor"].failure and math.isnan(done["inductor"].best)
    assert done["openvino"].failure == "ImportError: not here"
    assert not done["eager"].failure


def test_relative_error_is_a_share_of_the_norm() -> None:
    y = torch.tensor([3.0, 4.0])
    assert relative_error(y + torch.tensor([0.0, 0.5]), y) == pytest.approx(0.1)


def test_half_of_the_channels_of_the_duplicated_case_are_copies() -> None:
    for name, distinct in (("conv_half_duplicated", 64), ("conv_none_duplicated", 128)):
        (x,) = CASES[name]().inputs
        assert len({channel.numpy().tobytes() for channel in x[0]}) == distinct


def test_ratio_is_to_the_fastest_peer_and_not_to_ourselves() -> None:
    measured = [Measurement("eager", 4.0, 5.0, 0, 0), Measurement("openvino", 2.0, 3.0, 0, 0)]
    result = Result("resnet18", 1, 3, [*measured, Measurement("dense", 1.0, 1.5, 0, 0), Measurement("inductor")])
    assert result.best_peer() == 2.0
    text = markdown([result, Result("resnet50", 2, 3, [], failure="no torchvision")])
    assert "| haste-compiler, dense | 1.00 | 1.50 | 0.50 |" in text
    assert "Not measured: no torchvision" in text
    assert machine()["versions"] in text
    assert json.loads(json.dumps(result.to_dict()))["measurements"][3]["best"] is None


def test_memory_has_columns_where_it_was_measured() -> None:
    timed = Result("resnet18", 1, 3, [Measurement("eager", 4.0, 5.0, 0, 0)])
    assert "peak MiB" not in markdown([timed])
    ours = Measurement("dense", 1.0, 1.5, 0, 0, peak=254.4, preparing=346.2, planned=61.4)
    text = markdown([Result("resnet18", 1, 3, [*timed.measurements, ours])])
    assert "| 0.0e+00 | 0.0 | 254 | 346 | 61 |" in text and "| 0.0e+00 | 0.0 |  |  |  |" in text


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_memory_is_that_of_one_runner() -> None:
    command = [sys.executable, "-m", "benchmarks.memory", "conv_half_duplicated"]
    found = {}
    for runner in ("eager", "haste"):
        done = subprocess.run([*command, runner, "1"], capture_output=True, text=True, check=True)
        found[runner] = Memory(**json.loads(done.stdout.splitlines()[-1]))
    assert math.isnan(found["eager"].planned) and found["eager"].running < found["haste"].running
    # 0.56 MiB of filters, 0.38 MiB of input and of output each.
    assert 1.3 < found["haste"].planned < 6 and found["haste"].planned < found["haste"].running


def test_everything_that_can_be_asked_for_has_a_title() -> None:
    assert TITLES.keys() == CASES.keys()
    assert runners.TITLES.keys() == runners.PEERS.keys() | runners.OURS.keys()
