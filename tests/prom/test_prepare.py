"""Prepared networks, what they are converted to, and that the compiler computes the same."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import haste_compiler
from haste_compiler import QuantizedConfig
from haste_compiler.errors import ConfigError
from haste_compiler.graph.capture import capture
from haste_compiler.methods.quantized.ops.conv2d import QUANTIZED_CONV2D
from haste_compiler.methods.quantized.ops.linear import QUANTIZED_LINEAR
from haste_compiler.methods.quantized.rewrite import rewrite_quantized
from haste_compiler.methods.quantized.weights import quantize_filters
from haste_compiler.passes.pipeline import rewrite
from haste_compiler.prom import PromConfig, convert, prepare, quantized_layers
from haste_compiler.prom.integers import RoundedInput
from haste_compiler.prom.networks import DigitsNet
from tests import zoo

AS_TRAINED = QuantizedConfig(cost_model=False, bits=8, winograd=0)
"""Every layer in integers, as training computes them."""


def network(seed: int = 0, channels: int = 3) -> nn.Module:
    """A small network with batch norms that do something, whose scores tell images apart."""
    torch.manual_seed(seed)
    made, x = DigitsNet(channels, 10), images(16, channels)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 1)
    zoo.set_batch_norm_statistics(made, x, passes=1)
    scores = made.eval()(x[:2])
    assert relative(scores[0], scores[1]) > 0.05
    return made


def images(count: int, channels: int = 3) -> Tensor:
    """Noise of its own brightness and contrast in every channel."""
    contrast, brightness = torch.rand(count, channels, 1, 1) * 2, torch.randn(count, channels, 1, 1)
    return torch.randn(count, channels, 16, 16) * contrast + brightness


def relative(y: Tensor, expected: Tensor) -> float:
    return float((y - expected).norm() / expected.norm())


def test_pointwise_layers_are_ternary_and_the_others_have_8_bits() -> None:
    model = network()
    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    expected = {name: "ternary" if each.kernel_size == (1, 1) else "int8" for name, each in convolutions.items()}
    assert quantized_layers(prepare(model, (images(1),))) == {**expected, "classifier": "int8"}


def test_overrides_and_linear_layers() -> None:
    x = (images(1),)
    config = PromConfig(linear=True, layers={"features.*": "float", "features.2.0": "int8"})
    assert quantized_layers(prepare(network(), x, config)) == {"features.2.0": "int8", "classifier": "ternary"}


def test_the_model_is_left_as_it_is_and_so_is_the_prepared_one() -> None:
    model, x = network(), images(2)
    state, y = copy.deepcopy(model.state_dict()), model(x)
    prepared = prepare(model, (x,)).eval()
    rounded = prepared(x)
    plain = convert(prepared)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(x), y) and torch.equal(prepared(x), rounded) and not torch.equal(rounded, y)
    assert set(plain.state_dict()) == set(state) and not quantized_layers(plain)
    assert [type(module) for module in plain.modules()] == [type(module) for module in model.modules()]


@pytest.mark.parametrize("quantizer", ["twn", "mean", "learned"])
def test_converted_it_computes_the_same_but_for_the_inputs(quantizer: str) -> None:
    """With inputs left alone the two do the same arithmetic, bit by bit."""
    model, x = network(), images(4)
    prepared = prepare(model, (x,), PromConfig(quantizer, input_bits=None)).eval()
    assert torch.equal(convert(prepared)(x), prepared(x))


def test_converted_weights_are_three_values_or_127_steps() -> None:
    prepared = prepare(network(), (images(1),))
    plain = convert(prepared)
    for name, kind in quantized_layers(prepared).items():
        weight = plain.get_submodule(name).get_parameter("weight")
        trained = prepared.get_submodule(name).get_parameter("parametrizations.weight.original")
        integers, _ = quantize_filters(weight)
        if kind == "ternary":
            assert set(integers.unique().tolist()) == {-127, 0, 127}
        else:
            assert torch.equal(integers, quantize_filters(trained)[0])


@settings(max_examples=4)
@given(seed=st.integers(0, 2**16), quantizer=st.sampled_from(["twn", "mean", "learned"]), linear=st.booleans())
def test_the_integer_graph_of_the_converted_network_computes_what_was_trained(
    seed: int, quantizer: str, linear: bool
) -> None:
    """The definition of what is compiled: every layer that training rounds is one of integers there, and no other."""
    model, x = network(seed), images(3)
    prepared = prepare(model, (x,), PromConfig(quantizer, linear)).eval()
    gm = rewrite_quantized(rewrite(capture(convert(prepared), (x,))), AS_TRAINED)
    rounded = [node.meta["layer"] for node in gm.graph.nodes if node.target in (QUANTIZED_CONV2D, QUANTIZED_LINEAR)]
    hooked = [name for name, module in prepared.named_modules() if module._forward_pre_hooks]
    assert rounded == hooked
    # A value that lies on a half may be rounded the other way: one of thousands by a step.
    assert relative(gm(x), prepared(x)) < 5e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_layers_alone_compute_what_the_operators_of_integers_do(channels: int) -> None:
    """From the same input there are no halves to differ in: only float32 sums do."""
    x = images(3, channels)
    prepared = prepare(network(1, channels), (x,)).eval()
    plain, seen = convert(prepared), {}
    for name in quantized_layers(prepared):
        layer = prepared.get_submodule(name)
        layer.register_forward_hook(lambda layer, inputs, y, name=name: seen.update({name: (inputs[0], y)}))
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: seen.update({name: inputs[0]}), prepend=True)
    prepared(x)
    for name, (read, y) in seen.items():
        layer = plain.get_submodule(name)
        torch.testing.assert_close(y, layer(read), rtol=1e-5, atol=1e-5)


def test_the_compiled_network_computes_what_was_trained() -> None:
    model, x = network(), images(2)
    prepared = prepare(model, (x,)).eval()
    compiled = haste_compiler.compile(convert(prepared), (x,), config=AS_TRAINED)
    assert relative(compiled(x), prepared(x)) < 5e-3
    assert relative(compiled(x), model(x)) > 0.05, "untrained, it's another network than the original"


@pytest.mark.slow
def test_torchvisions_mobilenet() -> None:
    if missing := zoo.missing_torchvision():
        pytest.skip(missing)
    import torchvision

    model, x = torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.35), torch.randn(2, 3, 32, 32)
    zoo.set_batch_norm_statistics(model, x)
    prepared = prepare(model, (x,)).eval()
    kinds = list(quantized_layers(prepared).values())
    assert (kinds.count("ternary"), kinds.count("int8")) == (34, 19)
    gm = rewrite_quantized(rewrite(capture(convert(prepared), (x,))), AS_TRAINED)
    assert relative(gm(x), prepared(x)) < 1e-2


@torch.enable_grad()
def test_a_prepared_network_learns() -> None:
    x, labels = images(32), torch.arange(32) % 10
    prepared = prepare(network(), (x[:1],)).train()
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = F.cross_entropy(prepared(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.3 * losses[0]


class Shared(nn.Module):
    """Calls one layer on what may be negative, and on what can't be."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(self.layer(x).relu())
        return y


def test_a_layer_called_twice_is_rounded_with_a_sign_if_one_input_has_it() -> None:
    x = torch.randn(1, 4, 5, 5)
    prepared = prepare(Shared(), (x,))
    (hook,) = prepared.get_submodule("layer")._forward_pre_hooks.values()
    assert isinstance(hook, RoundedInput) and not hook.nonnegative
    assert prepared(x).shape == x.shape


def test_what_cannot_be_prepared_is_refused_by_name() -> None:
    x = (images(1),)
    with pytest.raises(ConfigError, match=r"'stem' matches none of features\.0\.0"):
        prepare(network(), x, PromConfig(layers={"stem": "int8"}))
    with pytest.raises(ConfigError, match="ReLU has no convolution and no linear layer"):
        prepare(nn.ReLU(), x)
    with pytest.raises(ConfigError, match="DigitsNet has no prepared layer"):
        convert(network())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quantizer": "best"}, "quantizer must be one of twn, mean, learned, not 'best'"),
        ({"input_bits": 4}, "input_bits must be 8, 7 or None, not 4"),
        ({"layers": {"a": "binary"}}, "'a' must be ternary, int8 or float, not 'binary'"),
    ],
)
def test_what_a_configuration_cannot_be(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PromConfig(**given)  # type: ignore[arg-type]
