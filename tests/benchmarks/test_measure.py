"""The benchmark's own arithmetic: what it times, what it refuses, how it reports."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import competitors, runners
from benchmarks.cases import CASES, TITLES, TRAINED, Case
from benchmarks.comparison import compare, relative_error
from benchmarks.measure import Measurement, measure
from benchmarks.memory import Memory
from benchmarks.report import Result, machine, markdown, plot
from haste_compiler import HasteConfig


def small_case() -> Case:
    x = [torch.randn(1, 4, 9, 9), torch.randn(1, 4, 9, 9)]
    return Case(nn.Conv2d(4, 8, 3).eval(), x, x)


def test_runners_that_agree_with_eager_are_timed() -> None:
    done = measure(small_case(), competitors.makers(["eager", "channels_last"], list), threads=1, rounds=3)
    assert [m.runner for m in done] == ["eager", "channels_last"]
    for m in done:
        assert not m.failure and 0 < m.best <= m.median and m.error < 1e-5 and m.rounds == 3 and m.first > 0


def test_when_time_is_up_there_are_three_rounds() -> None:
    done = measure(small_case(), competitors.makers(["eager"], list), threads=1, rounds=9, seconds=0)
    assert done[0].rounds == 3


def test_wrong_and_failing_runners_get_a_reason_and_no_time() -> None:
    def wrong(model: nn.Module, x: Tensor, threads: int) -> runners.Runner:
        return runners.Runner(lambda t: model(t) + 1)

    def absent(model: nn.Module, x: Tensor, threads: int) -> runners.Runner:
        raise ImportError("not here\nsecond line")

    makes = {"inductor": wrong, "openvino": absent, "eager": runners.eager, "dense": wrong, "haste": wrong}
    done = {m.runner: m for m in measure(small_case(), makes, threads=1, rounds=2)}
    for name in ("inductor", "dense"):
        assert "wrong" in done[name].failure and math.isnan(done[name].best) and done[name].error > 0.1
    assert done["openvino"].failure == "ImportError: not here"
    assert not done["eager"].failure
    # It approximates, which is no failure.
    assert not done["haste"].failure and done["haste"].best > 0 and done["haste"].error > 0.1


def test_every_checked_call_is_compared_and_not_only_what_is_timed() -> None:
    x, other = torch.ones(1, 4), -torch.ones(1, 4)

    def wrong_below_zero(model: nn.Module, x: Tensor, threads: int) -> runners.Runner:
        return runners.Runner(lambda t: t.clamp(min=0))

    (done,) = measure(Case(nn.Identity(), [x], [x, other]), {"openvino": wrong_below_zero}, threads=1, rounds=1)
    assert done.error == 1 and "wrong" in done.failure


class Unsteady(nn.Module):
    """Its result depends on the images' layout."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.is_contiguous() else 1.01 * x


@pytest.mark.parametrize(("factor", "allowed"), [(1.03, True), (1.05, False)])
def test_what_the_original_differs_by_from_itself_is_allowed_four_times(factor: float, allowed: bool) -> None:
    def near(model: nn.Module, x: Tensor, threads: int) -> runners.Runner:
        return runners.Runner(lambda t: factor * t)

    x = torch.rand(1, 3, 4, 4)
    (done,) = measure(Case(Unsteady(), [x], [x]), {"openvino": near}, threads=1, rounds=1)
    assert bool(done.failure) != allowed


def test_relative_error_is_a_share_of_the_norm() -> None:
    y = torch.tensor([3.0, 4.0])
    assert relative_error(y + torch.tensor([0.0, 0.5]), y) == pytest.approx(0.1)


def test_agreement_is_with_the_original_and_points_are_lost_on_the_labels() -> None:
    expected = torch.eye(4)
    actual = expected[[0, 1, 2, 0]]
    assert compare([actual], [expected]).agreement == 0.75
    # The fourth image's label is the class that it was given by the original; the third's neither's.
    found = compare([actual], [expected], torch.tensor([0, 1, 3, 3]))
    assert (found.agreement, found.lost, found.right) == (0.75, 25, 0.5)
    # One that the original got wrong is right now.
    found = compare([actual], [expected], torch.tensor([0, 1, 2, 0]))
    assert (found.agreement, found.lost, found.right) == (0.75, -25, 1)
    worst = compare([expected[:2], 2 * expected[2:]], [expected[:2], expected[2:]])
    assert (worst.error, worst.agreement) == (1, 1) and worst.overall == pytest.approx(0.5**0.5)


def test_images_have_a_signal_to_noise_ratio_and_no_class() -> None:
    image = torch.full((1, 2, 3, 3), 128.0)
    found = compare([image + 1, image], [image, image], brightest=255)
    assert math.isnan(found.agreement) and found.psnr == pytest.approx(20 * math.log10(255) + 10 * math.log10(2))
    assert math.isnan(compare([image + 1], [image]).psnr) and math.isnan(compare([image], [image], brightest=255).psnr)


def test_half_of_the_channels_of_the_duplicated_case_are_copies() -> None:
    for name, distinct in (("conv_half_duplicated", 64), ("conv_none_duplicated", 128)):
        (x,) = CASES[name](1).inputs
        assert len({channel.numpy().tobytes() for channel in x[0]}) == distinct


def result(threads: int, *measured: Measurement) -> Result:
    return Result("resnet18", 4, threads, list(measured))


def test_ratio_is_to_the_fastest_peer_that_is_right_and_not_to_ourselves() -> None:
    measured = result(
        1,
        Measurement("eager", 4.0, 5.0, 0, 0, rounds=3),
        Measurement("openvino", 2.0, 3.0, 0, 0, rounds=3),
        Measurement("onnxruntime", 0.5, 0.5, failure="wrong: differs"),
        Measurement("dense", 1.0, 1.5, 0, 0, rounds=3, first=2.5),
        Measurement("inductor", failure="ImportError: no such thing"),
    )
    best = measured.best_peer()
    assert best is not None and best.runner == "openvino"
    text = markdown([measured, Result("resnet50", 1, 2, [], failure="no torchvision")])
    assert "| resnet18 | 4 | 1 | OpenVINO, f32 2.00 ms | 0.50 |" in text
    assert "| haste-compiler, dense | 1.00 | 1.50 | 0.50 | 2.50 |" in text
    assert "2 threads not measured: no torchvision" in text
    assert "torch.compile, freezing, 1 thread: ImportError: no such thing" in text
    assert machine()["versions"] in text


def test_results_survive_json() -> None:
    measured = result(1, Measurement("eager", 4.0, 5.0, 0, 0, rounds=3), Measurement("inductor", failure="absent"))
    stored = json.loads(json.dumps(measured.to_dict(), allow_nan=False))
    assert stored["measurements"][1]["best"] is None
    assert repr(Result.from_dict(stored)) == repr(measured)


def test_two_threads_are_set_beside_one_and_the_worst_of_both_is_shown() -> None:
    one = Measurement("haste", 6.0, 7.0, 1.0, 0.02, 0.99, 0.5, 40.0, 3)
    two = Measurement("haste", 4.0, 5.0, 2.0, 0.03, 0.97, 0.25, 40.0, 3)
    eager = Measurement("eager", 12.0, 13.0, 0, 0, 1.0, 0.0, rounds=3)
    text = markdown([result(1, one, eager), result(2, two, eager)])
    assert "| 6.00 | 7.00 | 0.50 |  | 4.00 | 5.00 | 0.33 |  | 1.50 | 3.0e-02 | 97.0% | 0.50 | 2.0 | 40.0 |" in text
    assert "1→2" not in markdown([result(2, two, eager)]).split("###")[1]


def test_memory_has_columns_where_it_was_measured() -> None:
    eager = Measurement("eager", 4.0, 5.0, 0, 0, rounds=3)
    assert "peak MiB" not in markdown([result(1, eager)])
    ours = Measurement("dense", 1.0, 1.5, 0, 0, peak=254.4, preparing=346.2, planned=61.4, rounds=3)
    text = markdown([result(1, eager, ours)])
    assert "| 254 | 346 | 61 |" in text


def test_the_chart_has_a_panel_for_each_case(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib draws the chart")
    eager, ours = Measurement("eager", 4.0, 5.0, rounds=3), Measurement("dense", 1.0, 1.5, rounds=3)
    other = Result("resnet50", 1, 1, [eager, ours])
    absent = Result("vgg16_bn", 1, 1, [], absent="gone")
    plot([result(1, eager, ours), result(2, eager), other, absent], tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert all(TITLES[name] in drawn for name in ("resnet18", "resnet50")) and TITLES["vgg16_bn"] not in drawn
    plot([absent], tmp_path / "nothing.svg")
    assert not (tmp_path / "nothing.svg").exists()


def test_searched_is_left_out_where_nothing_was_searched() -> None:
    assert list(competitors.makers(["searched", "paper", "openvino"], list)) == ["paper", "openvino"]
    assert list(competitors.makers(["searched", "eager"], list, HasteConfig())) == ["searched", "eager"]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_memory_is_that_of_one_runner() -> None:
    command = [sys.executable, "-m", "benchmarks.memory", "conv_half_duplicated"]
    found = {}
    for runner in ("eager", "haste_everywhere"):
        done = subprocess.run([*command, runner, "1", "1", "none.json"], capture_output=True, text=True, check=True)
        found[runner] = Memory(**json.loads(done.stdout.splitlines()[-1]))
    ours = found["haste_everywhere"]
    assert math.isnan(found["eager"].planned) and found["eager"].running < ours.running
    # 0.56 MiB of filters, 0.38 MiB of input and of output each.
    assert 1.3 < ours.planned < 6 and ours.planned < ours.running


def test_everything_that_can_be_asked_for_has_a_title() -> None:
    assert TITLES.keys() == CASES.keys() and set(TRAINED) < CASES.keys()
    assert competitors.TITLES.keys() == (
        competitors.PEERS.keys() | competitors.INT8_PEERS.keys() | competitors.OURS.keys()
    )
