"""A compiled network of integers: the code against the operators, and everything that compiled networks offer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import haste_compiler
from haste_compiler import CompiledModule, HasteConfig, QuantizedConfig
from haste_compiler.cost.images import dead_leaves
from haste_compiler.errors import ConfigError
from haste_compiler.testing import assert_equivalent
from haste_compiler.testing.layers import check_layers
from tests.methods.quantized.test_rewrite import EVERYTHING, Mixed

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().eval()


@pytest.fixture(scope="module")
def compiled(model: nn.Module) -> CompiledModule:
    """For three images, every layer in integers."""
    return haste_compiler.compile(model, (IMAGES,), config=EVERYTHING)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_every_layer_computes_what_its_operator_does(model: nn.Module, compiled: CompiledModule) -> None:
    kinds = {each.name: each.kind for each in check_layers(model, compiled, (IMAGES,)) if not each.wrong}
    assert kinds == {
        **dict.fromkeys(("stem", "square", "point", "grouped", "head"), "quantized"),
        "depthwise": "conv",
        "mean_dim": "pool",
    }
    assert_equivalent(model, compiled, IMAGES, max_rel_error=0.02)


def test_the_dense_compile_is_in_float32(model: nn.Module, compiled: CompiledModule) -> None:
    expected = model(IMAGES)
    assert relative(compiled.dense(IMAGES), expected) < 1e-5 < 1e-3 < relative(compiled(IMAGES), expected) < 0.02


def test_explanation_names_algorithms_and_linear_layers(compiled: CompiledModule) -> None:
    text = str(compiled.explain())
    assert text.startswith("5 of 6 layers int8") and "int8 by F(4×4)" in text and "depthwise" in text
    assert "5 of 6 layers int8" in repr(compiled)


def test_a_saved_network_gives_the_same_bits_and_is_checked_as_well(
    model: nn.Module, compiled: CompiledModule, tmp_path: Path
) -> None:
    compiled.save(tmp_path / "net.haste")
    loaded = haste_compiler.load(tmp_path / "net.haste")
    assert np.array_equal(loaded(IMAGES), compiled(IMAGES))
    assert not [each for each in check_layers(model, loaded, (IMAGES,)) if each.wrong]
    compiled.dense.prepare(IMAGES)
    compiled.dense.save(tmp_path / "dense.haste")
    assert (tmp_path / "net.haste").stat().st_size < 1.2 * (tmp_path / "dense.haste").stat().st_size


def test_an_image_gives_the_same_bits_alone_and_in_any_batch(model: nn.Module) -> None:
    dynamic = haste_compiler.compile(model, (IMAGES,), config=EVERYTHING, dynamic=True)
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


def test_precision_means_the_default_configuration(model: nn.Module) -> None:
    compiled = haste_compiler.compile(model, precision="int8")
    assert compiled.configs.given == QuantizedConfig()
    both = haste_compiler.compile(model, config=HasteConfig(), precision="int8").configs.given
    assert both == (HasteConfig(), QuantizedConfig())
    own = haste_compiler.compile(model, config=EVERYTHING, precision="int8").configs.given
    assert own == EVERYTHING


@pytest.mark.parametrize(
    ("target", "precision", "allowed"),
    [
        ("llvm -mcpu=haswell", "bf16", "'fp32', 'int8' and None"),
        ("cuda -arch=sm_80", "int8", "'fp32', 'tf32', 'bf16' and None"),
    ],
)
def test_a_precision_that_the_target_lacks_is_refused(
    model: nn.Module, target: str, precision: str, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        haste_compiler.compile(model, target=target, precision=precision)
    assert f"precision is {precision!r}: allowed are {allowed}" in str(caught.value)


def test_layers_that_would_change_too_much_stay_in_float32_and_say_so(model: nn.Module) -> None:
    careful = haste_compiler.compile(model, (IMAGES[:1],), config=QuantizedConfig(max_error=1e-6))
    assert str(careful.explain()).startswith("no method takes any of 6 layers")
    assert relative(careful(IMAGES[:1]), model(IMAGES[:1])) < 1e-5
    reasons = {layer.name: layer.reason for layer in careful.layers}
    assert (
        "rounding would change its output by" in reasons["square"] and "more than max_error=1e-06" in reasons["square"]
    )


def test_a_limit_on_the_output_leaves_layers_in_float32_until_it_is_kept(model: nn.Module) -> None:
    """On the image that was looked at: made up, of the network's size."""
    image = dead_leaves((1, 3, 32, 32), 0)

    def compiled(limit: float) -> CompiledModule:
        config = QuantizedConfig(max_error=None, max_output_error=limit)
        return haste_compiler.compile(model, (image,), config=config)

    free = compiled(1.0)
    (error,) = free.explain().output_errors.values()
    limit = 0.7 * error
    held = compiled(limit)
    assert max(held.explain().output_errors.values(), default=0.0) <= limit
    for each in (free, held):
        predicted = max(each.explain().output_errors.values(), default=0.0)
        assert relative(each(image), model(image)) == pytest.approx(predicted, rel=0.02, abs=1e-5)
        layers = [layer for layer in each.explain().layers if layer.method is not None]
        assert all(layer.output_error is not None and layer.network_error == predicted for layer in layers)
    assert len([layer for layer in free.layers if layer.method]) > len([layer for layer in held.layers if layer.method])
    text = " ".join(str(held.explain()).split())
    assert "it would change the network's output by" in text and f"beyond max_output_error={limit:g}" in text
    text = " ".join(str(free.explain()).split())
    assert "and the network's by" in text and "int8 is predicted to change the outputs by" in text


def test_a_layers_own_limit_guards_beside_the_outputs(model: nn.Module) -> None:
    image = IMAGES[:1]
    config = QuantizedConfig(max_output_error=1.0, max_error=1e-6)
    compiled = haste_compiler.compile(model, (image,), config=config)
    reasons = [layer.reason for layer in compiled.layers]
    assert all(layer.method is None for layer in compiled.layers)
    assert any("more than max_error=1e-06" in reason for reason in reasons)


def test_a_limit_on_the_output_under_inference_mode_and_for_a_batch(model: nn.Module) -> None:
    with torch.inference_mode():
        compiled = haste_compiler.compile(model, (IMAGES,), config=QuantizedConfig(max_output_error=0.02), dynamic=True)
    assert compiled.explain().output_errors["quantized"] <= 0.02
    assert relative(compiled(IMAGES), model(IMAGES)) < 0.04
