"""Whole networks whose tokens stay merged, against ToMe written from the paper (``networks.tome``)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from haste_compiler.graph.capture import capture
from haste_compiler.graph.dynamic import BatchRange
from haste_compiler.graph.nodes import is_call, layer_name, shape_of
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.methods.tokens.attention import attentions
from haste_compiler.methods.tokens.config import TokenConfig
from haste_compiler.methods.tokens.ops.token_copy import TOKEN_COPY
from haste_compiler.methods.tokens.ops.token_merge import TOKEN_MERGE
from haste_compiler.methods.tokens.sites import plan
from tests.methods.tokens.networks import Vit, images, relative, tome, vit


def merged(model: torch.nn.Module, x: torch.Tensor, **fields: Any) -> fx.GraphModule:
    return run_passes(capture(model, (x,)), [TokenConfig(**fields)])


def calls(gm: fx.GraphModule, target: Any) -> list[fx.Node]:
    return [node for node in gm.graph.nodes if is_call(node, target)]


VARIANTS: dict[str, dict[str, Any]] = {
    "fused": {},
    "separate": {"style": "separate"},
    "spelled": {"style": "spelled"},
    "qk_norm": {"qk_norm": True},
    "scaled": {"scale": True},
    "registers": {"fixed": 5},
    "no class token": {"fixed": 0, "pool": "mean"},
    "mean of patches": {"pool": "mean"},
    "dense": {"pool": "dense", "fixed": 2},
}


@pytest.mark.parametrize(("number", "name"), enumerate(VARIANTS))
def test_a_network_is_tomes(number: int, name: str) -> None:
    model, x = vit(**VARIANTS[name]), images(1 + number % 3)
    gm = merged(model, x, r=5)
    with torch.no_grad():
        assert relative(gm(x), tome(model, x, [5, 5, 5], model.fixed)) < 1e-5
        assert relative(gm(x), model(x)) > 1e-4
    assert [shape_of(node)[-2] for node in attentions(gm)] == [36 + model.fixed - 5 * done for done in range(3)]
    assert len(calls(gm, TOKEN_MERGE)) == 3


def test_only_what_needs_all_tokens_gets_copies() -> None:
    x = images()
    assert not calls(merged(vit(), x, r=5), TOKEN_COPY)
    assert len(calls(merged(vit(pool="mean"), x, r=5), TOKEN_COPY)) == 3


def test_nothing_merges_by_zero() -> None:
    model, x = vit(), images()
    gm = merged(model, x, r=0)
    assert not calls(gm, TOKEN_MERGE)
    with torch.no_grad():
        assert relative(gm(x), model(x)) < 1e-6


def test_a_falling_schedule_and_a_start() -> None:
    model, x = vit(depth=4), images()
    with torch.no_grad():
        falling = merged(model, x, r=4, schedule="falling")(x)
        assert relative(falling, tome(model, x, [8, 5, 2, 0], 1)) < 1e-5
        later = merged(model, x, r=4, start=2, layers={"blocks.3.attn": {"r": 9}})(x)
        assert relative(later, tome(model, x, [0, 0, 4, 9], 1)) < 1e-5


def test_a_share_is_what_is_left_in_the_end() -> None:
    gm = merged(vit(), images(), keep=0.25)
    assert shape_of(calls(gm, TOKEN_MERGE)[-1].args[0])[1] - 9 == 1 + 36 // 4  # type: ignore[arg-type]


def test_no_more_than_half_can_merge() -> None:
    model, x = vit(), images()
    with torch.no_grad():
        assert relative(merged(model, x, r=1000)(x), tome(model, x, [18, 9, 5], 1)) < 1e-5


def reasons(model: torch.nn.Module, x: torch.Tensor, **fields: Any) -> dict[str, str]:
    gm = run_passes(capture(model, (x,)), [])
    return {layer_name(node): reason for node, reason in plan(gm, TokenConfig(**fields)).unfit.items()}


def test_tokens_that_are_told_by_their_place_stay() -> None:
    model, x = vit(rotary=True), images()
    found = reasons(model, x, r=5)
    assert set(found) == {f"blocks.{number}.attn" for number in range(3)}
    assert all("tokens by their place" in reason or "told tokens" in reason for reason in found.values())
    with torch.no_grad():
        assert relative(merged(model, x, r=5)(x), model(x)) < 1e-6


def test_layers_that_the_configuration_leaves_out() -> None:
    found = reasons(vit(), images(), r=5, start=1, layers={"blocks.1.attn": {"enabled": False}})
    assert "before the layers" in found["blocks.0.attn"] and "disabled" in found["blocks.1.attn"]
    assert "blocks.2.attn" not in found


class Parallel(Vit):
    """The MLP reads what attention reads: its result can't be added to tokens that merged."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = x + block.attn(block.norm1(x)) + block.mlp(block.norm2(x))  # type: ignore[operator]
        return self.read(x)


def test_tokens_that_are_needed_apart_before_the_next_attention_stay() -> None:
    torch.manual_seed(0)
    model, x = Parallel().eval(), images()
    assert all("needed apart" in reason for reason in reasons(model, x, r=5).values())
    with torch.no_grad():
        assert relative(merged(model, x, r=5)(x), model(x)) < 1e-6


@pytest.mark.parametrize("mode", ["running", "local"])
def test_a_dynamic_batch_stays(mode: str) -> None:
    captured = capture(vit(depth=1), (images(3),), batch=BatchRange("batch", 1, 8, (0,)))
    gm = run_passes(captured, [])
    (reason,) = plan(gm, TokenConfig(r=5, mode=mode)).unfit.values()
    assert "the batch is dynamic" in reason
