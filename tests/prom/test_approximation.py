"""Sums of ternary filters."""

import itertools

import torch
from torch import nn

from haste_compiler.prom.approximation import approximate, closest_ternary, ternary_sum
from haste_compiler.prom.ternary import ternarize_by_threshold


def test_no_ternary_filter_is_closer() -> None:
    """Against all of them: every choice of signs, each with its best scale."""
    weight = torch.randn(6, 7)
    found = (weight - closest_ternary(weight)).square().sum(1)
    every = torch.tensor(list(itertools.product([-1.0, 0.0, 1.0], repeat=7)))
    norms = every.square().sum(1)
    scale = weight @ every.T / norms.where(norms > 0, torch.ones(()))
    least = (weight[:, None] - scale[..., None] * every).square().sum(2).amin(1)
    torch.testing.assert_close(found, least)


def test_ties_and_zeros() -> None:
    weight = torch.tensor([[2.0, -2.0, 2.0], [0.0, 0.0, 0.0]])
    assert torch.equal(closest_ternary(weight), weight)


def test_every_term_brings_it_closer() -> None:
    weight = torch.randn(8, 64, 1, 1)
    errors = [float((ternary_sum(weight, terms) - weight).norm() / weight.norm()) for terms in range(1, 5)]
    signs, scale = ternarize_by_threshold(weight)
    assert errors[0] <= float((signs * scale - weight).norm() / weight.norm())
    assert errors == sorted(errors, reverse=True) and errors[0] < 0.5 and errors[3] < 0.15


def test_only_the_named_layers_change() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = approximate(model, ["1"], 2).state_dict()
    assert torch.equal(made.pop("1.weight"), ternary_sum(before["1.weight"], 2))
    assert all(torch.equal(value, before[name]) for name, value in made.items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
