"""The trained network on a card: what is said without one, and the sums, which need none."""

import math

import pytest
import torch

from benchmarks import gpu_trained
from benchmarks.gpu_trained import WAYS, Row, main, markdown, measure


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_without_a_card_there_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    expected = "benchmarks.gpu_trained: it needs a CUDA card, and PyTorch finds none\n"
    assert capsys.readouterr().err == expected


def test_times_stand_beside_the_dense_ones() -> None:
    rows = [Row("dense fp32", 0.0, (0, 0), 4.0, 1.0), Row("HASTE fp32", 0.25, (3, 13), 3.0, 0.969)]
    assert markdown(0.87, rows).splitlines()[-1] == "| HASTE fp32 | 0.25 | 3, 13 | 3.00 | 0.75 | 0.969 |"


@pytest.mark.slow
def test_accuracy_is_measured_on_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {way: WAYS[way] for way in ("dense fp32", "HASTE everywhere fp32")}
    monkeypatch.setattr(gpu_trained, "WAYS", kept)
    right, (dense, forced) = measure(100, 1, device="cpu", photographs=2)
    assert 0.7 < right <= 1
    assert dense.points_lost == 0 and dense.merged == (0, 0) and dense.agreement == 1
    assert abs(forced.points_lost) <= 10 and min(forced.merged) > 10
    assert math.isnan(forced.milliseconds)
