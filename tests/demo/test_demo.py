"""The carried network: its size, its score on digits that training never saw, and that training can be run again."""

from pathlib import Path

import pytest
import torch
from torch import nn

from haste_compiler.demo import network as carried
from haste_compiler.demo import train

pytest.importorskip("sklearn", reason="scikit-learn, which carries the digits, is not installed")

from haste_compiler.demo.digits import held_out_digits, training_digits


def test_carried_weights_are_small_and_the_network_wide() -> None:
    assert carried.WEIGHTS.stat().st_size <= 2_000_000
    widths = [m.out_channels for m in carried.load_network().modules() if isinstance(m, nn.Conv2d)]
    assert min(widths) >= 64


def test_carried_network_is_right_on_digits_it_never_saw() -> None:
    assert train.accuracy(carried.load_network(), *held_out_digits()) > 0.98


def test_held_out_digits_are_not_among_the_training_digits() -> None:
    seen = {image.numpy().tobytes() for image in training_digits()[0]}
    images, labels = held_out_digits()
    assert images.shape == (360, 1, 32, 32) and labels.unique().numel() == 10
    assert not any(image.numpy().tobytes() in seen for image in images)


def test_stored_weights_come_back_as_they_were_up_to_float16(tmp_path: Path) -> None:
    network = carried.DigitsResNet().eval()
    carried.save_network(network, tmp_path / "weights.safetensors")
    stored = carried.load_network(tmp_path / "weights.safetensors").state_dict()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(stored[name].float(), value.half().float(), rtol=0, atol=0)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    carried.save_network(nn.Linear(2, 2), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not the digits network"):
        carried.load_network(tmp_path / "other.safetensors")


@pytest.mark.slow
@torch.enable_grad()
def test_training_beats_guessing_by_far_in_two_epochs() -> None:
    assert train.accuracy(train.train(epochs=2), *held_out_digits()) > 0.5
