"""Compiled networks with fewer tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import haste_compiler
from haste_compiler import TokenConfig
from haste_compiler.methods.statistics import Tally
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.testing import EquivalenceError, assert_equivalent, check_layers
from tests.methods.tokens.networks import Vit, images, relative, tome, vit


@pytest.fixture(scope="module")
def model() -> Vit:
    return vit(depth=2, pool="mean")


@pytest.fixture(scope="module")
def compiled(model: Vit) -> Iterator[CompiledModule]:
    with torch.no_grad():
        yield haste_compiler.compile(model, (images(),), config=TokenConfig(r=5), threads=1)


def test_it_computes_tome(model: Vit, compiled: CompiledModule) -> None:
    x = images()
    with torch.no_grad():
        assert relative(compiled(x), tome(model, x, [5, 5], 1)) < 1e-5
        assert relative(compiled.dense(x), model(x)) < 1e-5


def test_it_explains_itself(compiled: CompiledModule) -> None:
    layers = {layer.name: layer for layer in compiled.explain().layers}
    assert layers["blocks.1.attn"].reason == "5 of 32 tokens merge behind it"
    assert layers["blocks.1.attn"].method == "tokens" and layers["blocks.1.attn"].kind == "attention"
    assert "2 of 3 layers fewer tokens" in str(compiled.explain())


def test_it_counts_what_it_saves(model: Vit, compiled: CompiledModule) -> None:
    report = haste_compiler.validate(model, compiled, images(), time=False)
    layers = {layer.name: layer for layer in report.layers}
    first, second = layers["blocks.0.attn.matmul"], layers["blocks.1.attn.matmul"]
    assert first.macs.convolution == first.macs.dense == 2 * 2 * 37 * 37 * 32
    assert second.macs.convolution == 2 * 2 * 32 * 32 * 32
    # 18 tokens of A meet 18 of B, by keys of 8 numbers, of which each has a norm.
    assert first.macs.matching == 2 * 8 * (18 * 18 + 18 + 18) and first.macs.merging == 2 * 2 * 5 * 32
    assert second.channels == Tally("tokens", 2 * 27, 2 * 5)
    mlp = layers["blocks.1.mlp.0"].macs
    assert (mlp.dense, mlp.convolution) == (2 * 37 * 32 * 64, 2 * 27 * 32 * 64)
    assert layers["head"].macs.spent == layers["head"].macs.dense
    assert 0.1 < report.mac_reduction < 0.15


def test_it_is_saved_and_loaded(model: Vit, compiled: CompiledModule, tmp_path: Path) -> None:
    x, file = images(), tmp_path / "vit.haste"
    compiled.save(file)
    loaded = haste_compiler.load(file)
    assert torch.equal(loaded(x), compiled(x)) and loaded.config == TokenConfig(r=5)
    assert str(loaded.explain()) == str(compiled.explain())
    assert {name: own.macs for name, own in loaded.stats(x).items()} == {
        name: own.macs for name, own in compiled.stats(x).items()
    }
    assert not any(check.wrong for check in check_layers(model, loaded, (x,)))


def test_it_is_checked(model: Vit, compiled: CompiledModule) -> None:
    assert_equivalent(model, compiled, images())
    with pytest.raises(EquivalenceError, match="layers compute what their settings say"):
        assert_equivalent(model, compiled, images(), max_rel_error=1e-3)


def test_int8_of_fewer_tokens(model: Vit) -> None:
    x = images()
    config = [TokenConfig(r=5), haste_compiler.QuantizedConfig(cost_model=False)]
    with torch.no_grad():
        compiled = haste_compiler.compile(model, (x,), config=config, threads=1)
        assert relative(compiled(x), tome(model, x, [5, 5], 1)) < 0.1
    assert {"tokens", "quantized"} <= {layer.method for layer in compiled.layers}
    attention = {layer.method for layer in compiled.layers if layer.name == "blocks.1.attn"}
    assert attention == {"tokens", "quantized"}


def test_within_torch_compile(model: Vit) -> None:
    x = images()
    options: dict[str, Any] = {"config": TokenConfig(r=5, cost_model=False)}
    with torch.no_grad():
        found = torch.compile(model, backend="haste", options=options)(x)
        assert relative(found, tome(model, x, [5, 5], 1)) < 1e-5
    torch._dynamo.reset()


def test_one_attention(model: Vit) -> None:
    x, config = images(), TokenConfig(mode="local", r=9, cost_model=False, layers={"blocks.1.*": {"enabled": False}})
    with torch.no_grad():
        compiled = haste_compiler.compile(model, (x,), config=config, threads=1)
        assert 1e-4 < relative(compiled(x), model(x)) < 0.3
        stats = compiled.stats(x)
    assert list(stats) == ["blocks.0.attn.matmul"]
    assert stats["blocks.0.attn.matmul"].macs.convolution == 2 * 2 * 28 * 28 * 32
    reasons = {layer.name: layer.reason for layer in compiled.explain().layers}
    assert reasons["blocks.0.attn"] == "9 of 37 tokens merge within it"
    assert reasons["blocks.1.attn"] == "disabled by the configuration"
