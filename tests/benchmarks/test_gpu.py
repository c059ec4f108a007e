"""The card's benchmark: what it says without a card, and how it reports."""

import pytest
import torch

from benchmarks.gpu import Peaks, Timing, main, markdown, tf32


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_without_a_card_there_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    assert capsys.readouterr().err == "benchmarks.gpu needs a CUDA card, and PyTorch finds none\n"


def test_failures_stand_where_the_numbers_would() -> None:
    peaks = Peaks({"fp32": 50e12, "tf32": 300e12}, 3e12)
    rows = markdown(
        [
            Timing("resnet18", 1, "eager", "fp32", 1.5, 0.0, 0.04),
            Timing("resnet18", 1, "dense tf32", "tf32", float("nan"), float("nan"), 0.0, "HasteError: no"),
        ],
        peaks,
    ).splitlines()
    assert rows[0] == "Measured peaks: fp32 50.0 TFLOP/s, tf32 300.0 TFLOP/s, copies 3.00 TB/s"
    assert rows[-2] == "| resnet18 | 1 | eager | 1.500 | 4.0% | 0.0e+00 |"
    assert rows[-1] == "| resnet18 | 1 | dense tf32 | HasteError: no |"


def test_tf32_is_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with tf32(False):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32
