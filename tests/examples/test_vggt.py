"""The network of VGGT's structure: a wrong number of tokens, or a rotary table that export can't size, is seen."""

import dataclasses

import pytest
import torch
from torch import Tensor

import haste_compiler
from examples.vggt import MOTIONS, SPECIAL, Vggt, error, moving, settings
from haste_compiler import compiler
from haste_compiler.codegen.tables import join
from haste_compiler.cost.images import dead_leaves
from haste_compiler.methods.registry import rules_for
from haste_compiler.methods.tokens.cpu.rules import RULES
from haste_compiler.methods.tokens.reference.attention import HeadMerging

SIDE = 32


@pytest.fixture(scope="module")
def model() -> Vggt:
    torch.manual_seed(0)
    return Vggt(64, 2, 1).eval()


@pytest.fixture(scope="module")
def frames() -> Tensor:
    images = dead_leaves((1, 3, 64, 64), seed=0)
    return moving(images[0], MOTIONS["slow"], 4, SIDE)


@pytest.mark.parametrize("merged", [False, True])
def test_it_compiles(model: Vggt, frames: Tensor, merged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though each rotary table is as long as a number says that is read from a tensor."""
    monkeypatch.setattr(compiler, "rules_for", lambda machine: {**rules_for(machine), **join(RULES)})
    model.merging = HeadMerging(4, SPECIAL, places=8) if merged else None
    try:
        compiled = haste_compiler.compile(model, (frames,), cache=False)
        # Merged tokens may be others where cosines are equal but for rounding.
        limit = 1e-3 if merged else 1e-5
        assert (compiled(frames) - model(frames)).norm() <= limit * model(frames).norm()
    finally:
        model.merging = None


@pytest.mark.parametrize("name", ["HTTM", "uniform"])
def test_sizes_are_worth_weighing(model: Vggt, frames: Tensor, name: str) -> None:
    """Of tokens that merge by head, and of those that merge alike in all heads."""
    compared = settings(4, (SIDE // model.patch) ** 2)
    weighed, plain = (
        error(model, frames, merging, uniform=uniform)
        for merging, uniform in (compared[name], compared[f"{name}, sizes not weighed"])
    )
    assert 0 < weighed < 0.75 * plain


def test_nothing_merges_where_all_is_kept(model: Vggt, frames: Tensor) -> None:
    merging = dataclasses.replace(HeadMerging(4, SPECIAL), queries=1.0, outliers=0.0, keys=1.0)
    assert error(model, frames, merging, uniform=False) < 1e-5
