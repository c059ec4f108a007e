"""What rounded filters shift the mean of the outputs by, and that the corrected bias takes it back."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haste_compiler import QuantizedConfig
from haste_compiler.graph.capture import capture
from haste_compiler.graph.geometry import window_geometry
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.methods.quantized.correction import corrected_bias, direct_response, winograd_response
from haste_compiler.methods.quantized.reference.winograd import winograd_integers
from haste_compiler.methods.quantized.weights import quantize_filters, quantize_transformed


def test_direct_response_is_what_a_map_of_ones_gives() -> None:
    weight = torch.randn(6, 4, 3, 3)
    integers, scale = quantize_filters(weight)
    found = direct_response(integers, scale)
    for channel in range(4):
        x = torch.zeros(1, 4, 3, 3)
        x[:, channel] = 1
        expected = F.conv2d(x, integers.float() * scale[:, None, None, None]).flatten()
        assert torch.allclose(found[:, channel].float(), expected, atol=1e-5)


@pytest.mark.parametrize("size", [2, 4])
def test_winograd_response_is_the_mean_of_a_tile(size: int) -> None:
    weight = torch.randn(6, 4, 3, 3)
    transformed = quantize_transformed(weight, size)
    found = winograd_response(*transformed, size)
    side = 4 * size + 2
    geometry = window_geometry(4, (side, side), ((3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1, (1, 1)), 6)
    for channel in range(4):
        x = torch.zeros(1, 4, side, side)
        x[:, channel] = 1
        y = winograd_integers(x, transformed, quantize_filters(weight), geometry, size, 8)
        # Powers of two and 127 values: rounding a tile of ones isn't exact.
        assert torch.allclose(found[:, channel].float(), y.mean((0, 2, 3)), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_mean_of_the_outputs_is_the_plain_layers(groups: int, with_bias: bool) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(8, 6 // groups, 3, 3), torch.randn(8) if with_bias else None
    x = torch.randn(4, 6, 12, 12) + torch.randn(6, 1, 1) * 5
    integers, scale = quantize_filters(weight)
    rounded = integers.float() * scale[:, None, None, None]
    corrected = corrected_bias(bias, direct_response(integers, scale), weight, x.mean((0, 2, 3)), groups)
    plain = F.conv2d(x, weight, bias, groups=groups)

    def shift(own: Tensor | None) -> float:
        return float((F.conv2d(x, rounded, own, groups=groups) - plain).mean((0, 2, 3)).norm())

    assert shift(corrected) < 0.1 * shift(bias)


def test_a_network_with_norms_is_nearer_to_its_float32_self() -> None:
    """Without the correction the error of this network is about twice as large."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in (3, 32, 32, 32):
        layers += [nn.Conv2d(channels, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    model, x = nn.Sequential(*layers), torch.randn(16, 3, 16, 16)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 2.0)
            module.momentum = None
        if isinstance(module, nn.Conv2d):
            # A large value a channel makes the steps of the others coarse.
            module.weight.data[:, 0] *= 30
    with torch.no_grad():
        model.train()(x)
    model.eval()
    captured = capture(model, (x,))
    config = QuantizedConfig(cost_model=False, bits=8)
    corrected = run_passes(captured, config)
    biases = [name for name, _ in corrected.named_buffers() if name.endswith("corrected_bias")]
    assert biases == ["3.corrected_bias", "6.corrected_bias", "9.corrected_bias"]
    uncorrected = run_passes(captured, config)
    for node in uncorrected.graph.nodes:
        if node.op == "get_attr" and node.target.endswith("corrected_bias"):
            node.target = node.target.replace("corrected_bias", "folded_bias")
    with torch.no_grad():
        expected = model(x)
        for name, tensor in run_passes(captured, QuantizedConfig(enabled=False)).named_buffers():
            if name.endswith("folded_bias"):
                uncorrected.get_submodule(name.rpartition(".")[0]).register_buffer("folded_bias", tensor)
        uncorrected.recompile()
        errors = [float((network(x) - expected).norm()) for network in (corrected, uncorrected)]
    assert errors[0] < 0.8 * errors[1]
