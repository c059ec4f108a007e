"""Ternary weights: their values, their scales, and where gradients go."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from haste_compiler.prom.ternary import QUANTIZERS, Learned, ternarize_by_mean, ternarize_by_threshold

WEIGHT = torch.tensor([[0.1, -1.0, 0.6, -0.3], [0.0, 0.0, 0.0, 0.0], [4.0, 4.0, -4.0, 0.5]])


@pytest.mark.parametrize("quantizer", sorted(QUANTIZERS))
@given(
    seed=st.integers(0, 2**16),
    shape=st.sampled_from([(1, 1, 1, 1), (5, 3, 1, 1), (4, 17, 1, 1), (3, 8)]),
    power=st.integers(-20, 20),
)
def test_every_output_channel_has_at_most_three_values(
    quantizer: str, seed: int, shape: tuple[int, ...], power: int
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2.0**power
    weight[0] *= seed % 2  # a channel of zeros, half of the time
    made = QUANTIZERS[quantizer](weight)(weight)
    assert made.shape == weight.shape and made.isfinite().all()
    for channel, was in zip(made, weight, strict=True):
        values = channel.abs().unique()
        assert len(values[values > 0]) == (1 if was.any() else 0)
        assert (channel * was >= 0).all()


def test_threshold_keeps_what_is_above_seven_tenths_of_the_mean() -> None:
    signs, scale = ternarize_by_threshold(WEIGHT)
    # Means of absolute values are 0.5, 0 and 3.125: thresholds 0.35, 0 and 2.1875.
    assert signs.tolist() == [[0, -1, 1, 0], [0, 0, 0, 0], [1, 1, -1, 0]]
    torch.testing.assert_close(scale[[0, 2], 0], torch.tensor([0.8, 4.0]))


def test_mean_keeps_what_is_above_half_of_it() -> None:
    signs, scale = ternarize_by_mean(WEIGHT)
    assert signs.tolist() == [[0, -1, 1, -1], [0, 0, 0, 0], [1, 1, -1, 0]]
    torch.testing.assert_close(scale[[0, 2], 0], torch.tensor([0.5, 3.125]))


@given(seed=st.integers(0, 2**16), shape=st.sampled_from([(5, 3, 1, 1), (4, 170)]))
def test_what_is_ternary_stays_what_it_is(seed: int, shape: tuple[int, ...]) -> None:
    """So a converted network can be prepared again."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    once = QUANTIZERS["twn"](weight)(weight)
    again = QUANTIZERS["twn"](once)(once)
    torch.testing.assert_close(again, once, rtol=1e-6, atol=0)


def test_threshold_is_closer_to_the_weights_than_the_mean() -> None:
    weight = torch.randn(16, 256)
    made = (ternarize_by_threshold(weight), ternarize_by_mean(weight))
    errors = [float((signs * scale - weight).norm()) for signs, scale in made]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("quantizer", ["twn", "mean"])
@torch.enable_grad()
def test_gradients_go_straight_through(quantizer: str) -> None:
    weight = torch.randn(4, 9, requires_grad=True)
    gradient = torch.randn(4, 9)
    QUANTIZERS[quantizer](weight)(weight).backward(gradient)
    assert weight.grad is not None and torch.equal(weight.grad, gradient)


@torch.enable_grad()
def test_learned_scale_gets_the_gradient_of_lsq() -> None:
    """Against the paper's formula, spelled out weight by weight."""
    weight = torch.randn(3, 50, requires_grad=True)
    learned, gradient = Learned(weight), torch.randn(3, 50)
    learned(weight).backward(gradient)
    scale = learned.scale.detach()
    expected = torch.zeros(3, 1)
    for row in range(3):
        for column in range(50):
            step = float(weight[row, column].detach() / scale[row, 0])
            slope = -step + round(step) if -1 < step < 1 else (1.0 if step > 0 else -1.0)
            expected[row] += float(gradient[row, column]) * slope / 50**0.5
    assert learned.scale.grad is not None and weight.grad is not None
    torch.testing.assert_close(learned.scale.grad, expected)
    inside = (weight.detach() / scale).abs() < 1
    assert torch.equal(weight.grad, gradient * inside) and inside.any() and not inside.all()


@torch.enable_grad()
def test_learned_scale_finds_the_best_one() -> None:
    """Descent on the squared error ends near the least that any scale reaches."""
    weight = torch.randn(1, 400)
    learned = Learned(weight)
    optimizer = torch.optim.SGD(learned.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        (learned(weight) - weight).square().sum().mul(0.1).backward()
        optimizer.step()
    tried = torch.linspace(0.2, 3, 281)
    errors = [float(((weight / s).clamp(-1, 1).round() * s - weight).square().sum()) for s in tried]
    reached = float((learned(weight) - weight).square().sum())
    assert reached <= min(errors) * 1.02
