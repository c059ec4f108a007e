"""Int8 peers of the benchmark: what they compute, which images calibrate them, how they are reported."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import calibration, cases, images, peers, worker
from benchmarks.comparison import relative_error
from benchmarks.competitors import INT8_PEERS
from benchmarks.measure import Measurement
from benchmarks.report import Result, markdown
from tests import vision, zoo

NEEDED = {"inductor_int8": "torchao", "onnxruntime_int8": "onnxruntime", "openvino_int8": "nncf"}


def peer_or_skip(name: str) -> None:
    if importlib.util.find_spec(NEEDED[name]) is None:
        pytest.skip(f"{NEEDED[name]} is not installed")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "inductor_int8" else []) for name in INT8_PEERS]
)
def test_peers_are_quantized_and_their_sums_do_not_overflow(name: str) -> None:
    peer_or_skip(name)
    torch.manual_seed(0)
    first, second = nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)
    for layer in (first, second):
        # Two products of large positive values are beyond 16 bits.
        nn.init.uniform_(layer.weight, 0.5, 1)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU()).eval()
    calls = [torch.rand(1, 16, 12, 12) for _ in range(4)]
    runner = INT8_PEERS[name](lambda: calls)(model, calls[0], 1)
    x = torch.rand(1, 16, 12, 12)
    actual = runner.decode(runner.run(runner.encode(x)))
    with torch.inference_mode():
        error = relative_error(actual, model(x))
    assert 1e-4 < error < 0.03
    assert runner.size is None or 0 < runner.size() < 1 << 20


@pytest.mark.slow
def test_a_worker_says_what_int8_peers_were_calibrated_on() -> None:
    peer_or_skip("onnxruntime_int8")
    wanted = worker.Work("conv_none_duplicated", 1, 1, ["onnxruntime_int8", "int8"], 3, 60.0, "none.json")
    found = worker.run(wanted, lambda doing, part: None)
    assert [m.runner for m in found.measurements] == ["onnxruntime_int8", "int8"]
    peer = found.measurements[0]
    assert not peer.failure and peer.best > 0 and 1e-3 < peer.error < 0.05
    assert found.calibrated == "its own inputs, for want of others"


def small_case(side: int, batch: int, channels: int = 8) -> cases.Case:
    def draw(count: int) -> torch.Tensor:
        return torch.arange(count).view(-1, 1, 1, 1).expand(count, 3, side, side).float()

    x = torch.zeros(batch, 3, side, side)
    model = nn.Conv2d(3, channels, 3, padding=1).eval()
    return cases.Case(model, [x], [x], calibrating=cases.Calibrating(draw, "numbers"))


def test_calibrating_calls_have_the_case_s_batch() -> None:
    case = small_case(8, batch=16)
    calls = calibration.calls(case)
    # 300 do not fill calls of 16.
    assert len(calls) == 18 and {call.shape for call in calls} == {case.inputs[0].shape}
    assert torch.cat(calls)[:, 0, 0, 0].tolist() == list(range(288))
    assert calibration.describe(case) == "288 numbers"


def test_fewer_images_calibrate_a_network_that_takes_long_and_the_note_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = small_case(8, batch=2)
    macs = 8 * 8 * 3 * 3 * 3 * 8
    assert calibration.macs_of_image(case) == macs
    monkeypatch.setattr(calibration, "MOST_MACS", 11.5 * macs)
    assert sum(len(call) for call in calibration.calls(case)) == 10
    assert calibration.describe(case).startswith("10 numbers, not 300, ")
    monkeypatch.setattr(calibration, "MOST_MACS", 0.0)
    assert len(calibration.calls(case)) == 1


def test_made_up_images_that_calibrate_are_not_those_that_are_checked() -> None:
    shape = (6, 3, 32, 32)
    checked, others = images.made_up(shape, 0), images.made_up(shape, 1)
    assert checked.shape == shape and len({image.numpy().tobytes() for image in torch.cat((checked, others))}) == 12
    # A generator's latent vector is no image.
    assert images.made_up((2, 100, 1, 1), 0).shape == (2, 100, 1, 1)


def test_photographs_that_calibrate_are_not_those_that_are_checked() -> None:
    case = built_or_skip("efficientnet_lite0", 4)
    assert len(case.checked) * 4 == 200 and case.labels is not None and len(case.labels) == 200
    assert case.calibrating is not None
    calibrating = {image.numpy().tobytes() for image in case.calibrating.draw(300)}
    checked = {image.numpy().tobytes() for call in case.checked for image in call}
    assert len(checked) == 200 and len(calibrating) == 300 and not checked & calibrating


def test_photographs_for_the_trained_resnet_are_of_other_images_than_those_it_is_checked_on() -> None:
    checked = zoo.photographs()[:, :, ::8, ::8].flatten(1)
    try:
        others = images.photographs_beside(300)[:, :, ::8, ::8].flatten(1)
    except vision.AbsentError as error:
        pytest.skip(str(error))
    # One and the same image is compressed a little differently in the two files.
    assert len(others) == 300 and torch.cdist(checked, others).min() > 0.1 * checked.norm(dim=1).mean()


def built_or_skip(name: str, batch: int) -> cases.Case:
    try:
        return cases.CASES[name](batch)
    except cases.AbsentError as error:
        pytest.skip(str(error))


def test_accuracy_is_on_all_labelled_images() -> None:
    zoo.trained("resnet18")
    case = cases.ALL_IMAGES["cifar_resnet18"](16)
    assert case.labels is not None and len(case.labels) == 10_000 and len(case.checked) == 625
    assert np.bincount(case.labels.numpy()).tolist() == [1000] * 10


def measured(runner: str, best: float, error: float, agreement: float = math.nan) -> Measurement:
    return Measurement(runner, best, best, 0, error, agreement, overall=error / 2, rounds=3)


def test_int8_is_set_beside_the_fastest_int8_peer_whatever_its_error() -> None:
    found = Result(
        "efficientnet_lite0",
        1,
        1,
        [
            measured("onnxruntime", 8.0, 1e-6),
            replace(measured("onnxruntime_int8", 4.0, 0.5, 0.75), right=0.5),
            measured("openvino_int8", 5.0, 0.1, 0.9),
            measured("int8", 2.0, 0.02, 0.99),
            measured("dense", 6.0, 1e-6),
        ],
        calibrated="300 photographs",
    )
    assert math.isnan(found.int8_ratio(found.measurements[-1]))
    text = markdown([found])
    # The float32 rule holds for float32: an int8 peer is not what others are compared with.
    assert "| efficientnet_lite0 | 1 | 1 | ONNX Runtime 8.00 ms | 0.75 | 0.25 |" in text
    ours = "0.50 | 1.0e-02 | 99.0% |"
    assert f"| efficientnet_lite0 | 1 | 1 | ONNX Runtime, int8 4.00 ms | 0.50 | 2.5e-01 | 75.0% | {ours}" in text
    assert "| haste-compiler, int8 | 2.00 | 2.00 | 0.25 | 0.50 |" in text
    assert "| haste-compiler, dense | 6.00 | 6.00 | 0.75 |  |" in text
    assert "accuracy" in text and "PSNR" not in text and "Int8 peers were calibrated on 300 photographs." in text
    assert "int8" not in markdown([Result("resnet18", 1, 1, [measured("dense", 6.0, 1e-6)])])


def test_images_have_a_column_for_their_signal_to_noise_ratio() -> None:
    text = markdown([Result("srvgg", 1, 1, [replace(measured("openvino_int8", 5.0, 0.1), psnr=41.27)])])
    assert "PSNR dB" in text and "| 41.3 |" in text


@pytest.mark.slow
def test_int8_peers_are_measured_with_all_there_is(tmp_path: Path) -> None:
    for name in INT8_PEERS:
        peer_or_skip(name)
    arguments = ["--networks", "conv_none_duplicated", "--quick", "--int8", "--memory", "--competitors", "eager"]
    peers.main([*arguments, "--out", str(tmp_path)])
    text = (tmp_path / "peers.md").read_text()
    for title in ("torch.compile, int8", "ONNX Runtime, int8", "OpenVINO, int8"):
        assert f"{title}, 1 thread:" not in text and text.count(f"| {title} |") == 1
    assert "peak MiB" in text
