"""Weights and inputs of 8 bits: the integers of method ``quantized``, and gradients straight through."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from haste_compiler.methods.quantized.reference.rounding import quantize
from haste_compiler.methods.quantized.weights import quantize_filters
from haste_compiler.prom.integers import EightBits, RoundedInput


@given(
    seed=st.integers(0, 2**16),
    shape=st.sampled_from([(1, 1, 1, 1), (6, 5, 3, 3), (8, 1, 3, 3), (4, 33)]),
    power=st.integers(-20, 20),
)
def test_the_compiler_finds_the_same_integers_also_after_a_norm_was_folded(
    seed: int, shape: tuple[int, ...], power: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator) * 2.0**power
    weight[0] *= seed % 2
    integers, _ = quantize_filters(weight)
    rounded = EightBits()(weight)
    norm = torch.randn(len(weight), *[1] * (weight.dim() - 1), generator=generator, dtype=torch.float64)
    assert torch.equal(quantize_filters(rounded)[0], integers)
    folded, _ = quantize_filters((rounded.double() * norm).float())
    assert torch.equal(folded, integers * norm.sign().to(torch.int8))
    largest = integers.flatten(1).int().abs().amax(1)
    assert (largest[weight.flatten(1).any(1)] == 127).all()


@torch.enable_grad()
def test_gradients_of_weights_go_straight_through() -> None:
    weight, gradient = torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(4, 3, 3, 3)
    EightBits()(weight).backward(gradient)
    assert weight.grad is not None and torch.equal(weight.grad, gradient)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("axes", [(1,), (1, 3), (-1,)])
@pytest.mark.parametrize(("nonnegative", "bits"), [(True, 8), (False, 8), (True, 7), (False, 7)])
@torch.enable_grad()
def test_inputs_are_rounded_as_the_reference_rounds_them(
    axes: tuple[int, ...], nonnegative: bool, bits: int, training: bool
) -> None:
    x = torch.randn(2, 8, 6, 5)
    x = (x.relu() if nonnegative else x).requires_grad_()
    before = x.detach().clone()
    layer = nn.Identity().train(training)
    (y,) = RoundedInput(axes, nonnegative, bits)(layer, (x,))
    integers, scale = quantize(before, axes, nonnegative=nonnegative, bits=bits)
    torch.testing.assert_close(y, (integers * scale).float(), rtol=1e-6, atol=1e-7)
    gradient = torch.randn(y.shape)
    y.backward(gradient)
    assert x.grad is not None and torch.equal(x.grad, gradient)
    assert torch.equal(x, before)


def test_halves_are_rounded_to_the_bit_in_evaluation() -> None:
    """A product that float32 rounds to a half, and the reference doesn't."""
    x = torch.rand(1, 64, 256, 256)
    hook = RoundedInput((1,), True, 8)
    integers, scale = quantize(x, (1,), nonnegative=True)
    expected = (integers * scale.double()).float()
    (exact,), (quick,) = (hook(nn.Identity().train(training), (x,)) for training in (False, True))
    assert torch.equal(exact, expected)
    steps = (quick - expected) / scale
    assert 0 < int((steps.abs() > 0.5).sum()) < x.numel() * 1e-4, "float32 makes a difference, and a small one"
