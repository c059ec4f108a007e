"""Whole networks of bfloat16, with the instruction spelled out: the code against the operators, and what compiled
networks offer."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from torch import Tensor, nn

import haste_compiler
from haste_compiler import CompiledModule
from haste_compiler.methods.bfloat16.cpu import unit
from haste_compiler.runtime.artifact_manifest import WEIGHTS
from haste_compiler.testing import assert_equivalent
from haste_compiler.testing.layers import check_layers
from tests.methods.bfloat16.test_rewrite import EVERYTHING
from tests.methods.bfloat16.units import emulated
from tests.methods.quantized.test_rewrite import Mixed

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().eval()


@pytest.fixture(scope="module", autouse=True)
def spelled_out() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit, "bfloat16_unit", emulated)
        yield


@pytest.fixture(scope="module")
def compiled(model: nn.Module) -> CompiledModule:
    """For three images, every layer in bfloat16."""
    return haste_compiler.compile(model, (IMAGES,), config=EVERYTHING, cache=False)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_every_layer_computes_what_its_operator_does(model: nn.Module, compiled: CompiledModule) -> None:
    kinds = {each.name: each.kind for each in check_layers(model, compiled, (IMAGES,)) if not each.wrong}
    assert kinds == {
        **dict.fromkeys(("stem", "square", "point", "grouped", "head"), "bfloat16"),
        "depthwise": "conv",
        "mean_dim": "pool",
    }
    assert_equivalent(model, compiled, IMAGES, max_rel_error=0.005)


def test_explanation_and_the_dense_compile(model: nn.Module, compiled: CompiledModule) -> None:
    text = str(compiled.explain())
    assert text.startswith("5 of 6 layers bf16") and "bf16, F(4×4)" in text and "depthwise" in text
    expected = model(IMAGES)
    assert relative(compiled.dense(IMAGES), expected) < 1e-5 < 5e-4 < relative(compiled(IMAGES), expected) < 0.005


def test_a_saved_network_gives_the_same_bits_and_holds_weights_of_16_bits(
    model: nn.Module, compiled: CompiledModule, tmp_path: Path
) -> None:
    compiled.save(tmp_path / "net.haste")
    with zipfile.ZipFile(tmp_path / "net.haste") as archive:
        weights = [tensor for tensor in load(archive.read(WEIGHTS)).values() if tensor.size > 16 * 9]
    assert len(weights) == 6 and {str(tensor.dtype) for tensor in weights} == {"uint16"}
    loaded = haste_compiler.load(tmp_path / "net.haste")
    assert np.array_equal(loaded(IMAGES), compiled(IMAGES))
    assert not [each for each in check_layers(model, loaded, (IMAGES,)) if each.wrong]


def test_an_image_gives_the_same_bits_alone_and_in_any_batch(model: nn.Module) -> None:
    dynamic = haste_compiler.compile(model, (IMAGES,), config=EVERYTHING, dynamic=True, cache=False)
    together = dynamic(IMAGES)
    for image in range(3):
        assert torch.equal(dynamic(IMAGES[image : image + 1])[0], together[image])


def test_nan_and_infinity_reach_what_they_reach_in_float32(model: nn.Module, compiled: CompiledModule) -> None:
    clean = compiled(IMAGES)
    for value in (float("nan"), float("inf"), -float("inf")):
        spoiled = IMAGES.clone()
        spoiled[1, 2, 20, 20] = value
        found, expected = compiled(spoiled), model(spoiled)
        assert torch.equal(found.isfinite(), expected.isfinite())
        assert torch.equal(found[[0, 2]], clean[[0, 2]])


def test_torch_compile_takes_it() -> None:
    torch._dynamo.reset()
    large = nn.Conv2d(32, 32, 3, padding=1).eval()
    x = torch.randn(1, 32, 64, 64)
    options = {"config": EVERYTHING, "precision": "bf16"}
    with torch.no_grad():
        y = torch.compile(large, backend="haste", options=options)(x)  # type: ignore[arg-type]
    assert 5e-4 < relative(y, large(x)) < 0.02
