"""Whole small networks through ``compile``."""

import copy
import dataclasses
import gc
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import haste_compiler
import haste_compiler.haste as haste
from haste_compiler import (
    CaptureError,
    CompiledModule,
    ConfigError,
    HasteConfig,
    HasteError,
    InputError,
    TargetError,
    UnsupportedOperatorError,
)
from haste_compiler.graph.capture import capture
from haste_compiler.methods.pipeline import run_passes
from tests.codegen.kernels import targets
from tests.methods.haste.networks import redundant_images
from tests.passes.checking import Fn, settled
from tests.passes.checking import assert_same as check_same


class Net(nn.Module):
    """Residual blocks, grouped, depthwise, strided and dilated convolutions, pooling and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.conv1 = nn.Conv2d(16, 32, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=2)
        self.shortcut = nn.Conv2d(16, 32, 1, 2)
        self.depthwise = nn.Conv2d(32, 32, 5, padding=2, groups=32)
        self.conv3 = nn.Conv2d(32, 24, (1, 3), padding="same")
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        x = F.relu(self.conv2(F.relu(self.norm1(self.conv1(x)))) + self.shortcut(x))
        x = F.silu(self.conv3(F.hardswish(self.depthwise(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


HASTE_LAYERS = ["conv1", "conv2", "shortcut", "conv3"]
CONFIG = HasteConfig(min_reads=0, cost_model=False, num_hyperplanes=5, patch_size=4)
PAPER = HasteConfig.paper()
# All pairs of both would compile the same kernels again, which are tested one by one on every target.
CONFIGS_OF_TARGETS = [("llvm", CONFIG), *zip(targets(), (PAPER, CONFIG, PAPER), strict=False)]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return settled(Net())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return redundant_images(2, 3, 40, 36, seed=1)


@pytest.fixture(scope="module")
def compiled(net: nn.Module, images: Tensor) -> CompiledModule:
    return haste_compiler.compile(net, (images,), config=CONFIG, threads=1)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    """A dense and a HASTE convolution, for what is compiled several times."""
    torch.manual_seed(0)
    return settled(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 20, 3, 2, 1)))


@pytest.fixture
def steered(compiled: CompiledModule) -> Iterator[CompiledModule]:
    yield compiled
    compiled.num_hyperplanes, compiled.tolerance = CONFIG.num_hyperplanes, CONFIG.tolerance
    compiled.flat_tolerance = CONFIG.flat_tolerance


def oracle(model: nn.Module, config: HasteConfig, *inputs: Any) -> Any:
    """The rewritten graph, run eagerly."""
    return run_passes(capture(model, inputs), config)(*inputs)


# What is computed


def test_dense(net: nn.Module, images: Tensor) -> None:
    compiled = haste_compiler.compile(net, (images,), config=HasteConfig(enabled=False))
    check_same(compiled(images), net(images), 1e-5)
    assert compiled.stats(images) == {} and compiled.dense is compiled
    assert [layer.name for layer in compiled.layers if layer.eligible] == []


def test_exact(net: nn.Module, images: Tensor) -> None:
    compiled = haste_compiler.compile(net, images, config=HasteConfig.exact())
    check_same(compiled(images), net(images), 1e-4)


@pytest.mark.parametrize(
    ("target", "config"), CONFIGS_OF_TARGETS, ids=lambda value: value if isinstance(value, str) else value.merge
)
def test_haste_equals_the_eager_operator(net: nn.Module, images: Tensor, target: str, config: HasteConfig) -> None:
    compiled = haste_compiler.compile(net, (images,), target=target, config=config)
    y, eager = compiled(images), oracle(net, config, images)
    check_same(y, eager, 1e-4)
    assert (y - net(images)).norm() > 1e-3 * y.norm()
    assert [layer.name for layer in compiled.layers if layer.eligible] == HASTE_LAYERS


def test_the_dense_twin(net: nn.Module, images: Tensor, compiled: CompiledModule) -> None:
    assert compiled.dense is compiled.dense and compiled.dense.config == HasteConfig(enabled=False)
    check_same(compiled.dense(images), net(images), 1e-5)
    assert compiled.dense.threads == compiled.threads == 1


def test_every_pass_can_be_looked_at(compiled: CompiledModule) -> None:
    first, *_, rewritten, last = compiled.graphs
    assert (first, rewritten, last) == ("capture", "rewrite_haste", "allow_winograd")
    assert "haste.convolve" in compiled.graphs["rewrite_haste"] and "haste" not in compiled.graphs["capture"]
    assert "4 of 6 convolutions HASTE" in repr(compiled)


def test_the_model_is_left_as_it_was(images: Tensor) -> None:
    model = settled(Net()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = images.clone()
    compiled = haste_compiler.compile(model, (images,), config=CONFIG)
    first = compiled(images)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(images, kept)
    second = compiled(images.flip(0))
    assert first.data_ptr() != second.data_ptr() and not torch.equal(first, second)
    # The compiled network has the weights that it was compiled with.
    with torch.no_grad():
        model.head.weight.zero_()
    assert torch.equal(compiled(images), first)


def test_threads_do_not_change_the_result(small: nn.Module, images: Tensor) -> None:
    one, two = (haste_compiler.compile(small, (images,), config=CONFIG, threads=threads) for threads in (1, 2))
    assert (two.threads, one.threads) == (2, 1)
    check_same(two(images), one(images), 1e-5)
    assert list(two.stats(images)) == ["2"]
    for name, stats in two.stats(images).items():
        np.testing.assert_array_equal(stats.counts, one.stats(images)[name].counts)


# Steering and statistics


@pytest.mark.parametrize(
    "change",
    [
        {"tolerance": None},
        {"tolerance": 0.05},
        {"num_hyperplanes": 2},
        {"num_hyperplanes": 30},
        {"flat_tolerance": 0.6},
    ],
    ids=str,
)
def test_steering_equals_compiling_again(
    net: nn.Module, images: Tensor, steered: CompiledModule, change: dict[str, Any]
) -> None:
    before = steered(images)
    for name, value in change.items():
        setattr(steered, name, value)
        assert getattr(steered, name) == value
    again = haste_compiler.compile(net, (images,), config=CONFIG.replace(**change), threads=1)
    assert torch.equal(steered(images), again(images))
    assert not torch.equal(steered(images), before)


def test_steering_one_layer(net: nn.Module, images: Tensor, steered: CompiledModule) -> None:
    steered.tolerance = {"conv1": 0.0, "conv[23]": None}
    assert steered.tolerance == {"conv1": 0.0, "conv2": None, "shortcut": 0.4, "conv3": None}
    layers = {"conv1": {"tolerance": 0.0}, "conv[23]": {"tolerance": None}}
    again = haste_compiler.compile(net, (images,), config=CONFIG.replace(layers=layers), threads=1)
    assert torch.equal(steered(images), again(images)) and again.tolerance == steered.tolerance


def test_shapes_that_come_later_are_steered_alike(small: nn.Module, images: Tensor) -> None:
    steered = haste_compiler.compile(small, (images,), config=CONFIG, threads=1)
    before = steered(images)
    steered.tolerance = {"2": 0.0}
    again = haste_compiler.compile(small, config=CONFIG.replace(layers={"2": {"tolerance": 0.0}}), threads=1)
    assert torch.equal(steered(images[:1]), again(images[:1]))
    assert not torch.equal(steered(images[:1]), before[:1])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tolerance", -1, "tolerance must be finite and at least 0"),
        ("tolerance", float("nan"), "tolerance must be finite"),
        ("tolerance", "much", "tolerance must be a number"),
        ("num_hyperplanes", 31, "num_hyperplanes must be between 1 and 30"),
        ("num_hyperplanes", 0, "num_hyperplanes must be between 1 and 30"),
        ("num_hyperplanes", 2.5, "num_hyperplanes must be an integer"),
        ("flat_tolerance", None, "flat_tolerance must be a number"),
        ("tolerance", {"conv9": 0.1}, "'conv9' matches none of the 4 HASTE layers; did you mean 'conv"),
        ("tolerance", {"conv1": 0.1, "stem.0": 0.1}, "'stem.0' is a dense convolution"),
    ],
)
def test_steering_out_of_range_changes_nothing(
    images: Tensor, steered: CompiledModule, field: str, value: Any, message: str
) -> None:
    before = steered(images)
    with pytest.raises(ConfigError, match=message):
        setattr(steered, field, value)
    assert torch.equal(steered(images), before)


def test_steering_before_the_first_call(net: nn.Module, images: Tensor, steered: CompiledModule) -> None:
    lazy = haste_compiler.compile(net, config=CONFIG, threads=1)
    assert lazy.tolerance == 0.4 and lazy.layers == [] and lazy.graphs == {} and "not compiled yet" in repr(lazy)
    lazy.tolerance = 0.1
    assert lazy.tolerance == 0.1
    steered.tolerance = 0.1
    assert torch.equal(lazy(images), steered(images)) and lazy.tolerance == 0.1


def test_statistics_equal_the_operators(images: Tensor) -> None:
    x = redundant_images(3, 16, 21, 18)
    conv = nn.Conv2d(16, 24, 3, padding=1, groups=2)
    model = nn.Sequential(conv, nn.ReLU())
    config = HasteConfig(min_reads=0, cost_model=False, num_hyperplanes=4, patch_size=(5, 7))
    stats = haste_compiler.compile(model, (x,), config=config).stats(x)
    assert list(stats) == ["0"]
    mine = stats["0"]
    planes = haste.draw_hyperplanes(mine.geometry.window_pixels, 0, "0", config.nonzeros)
    eager = haste.haste_conv2d(x, conv.weight, conv.bias, planes, haste.Settings.of(config), mine.geometry)
    np.testing.assert_array_equal(mine.counts, eager.counts.numpy())
    np.testing.assert_allclose(mine.bound.sum(axis=-1), eager.bound.numpy(), rtol=1e-3)
    assert mine.images == 3 and mine.counts.shape == (3, 5, 3, 2, 6)
    rules = (4, "projection", True, "flat", config.nonzeros)
    assert mine.macs == haste.count_macs(mine.geometry, eager.counts, *rules)
    assert mine.macs.dense == 3 * mine.geometry.dense_macs
    assert mine.kept + mine.merged + mine.skipped == pytest.approx(1)
    exact = conv(x)
    loss = float((oracle(model[:1], config, x) - exact).norm())
    assert 0 < loss <= mine.error_bound


def test_profile_names_layers(images: Tensor, compiled: CompiledModule) -> None:
    seconds = compiled.profile(images)
    assert {*HASTE_LAYERS, "stem.0", "depthwise", "head"} <= seconds.keys()
    assert all(0 <= value < 10 for value in seconds.values())
    compiled(images)


# Inputs


def test_several_shapes(small: nn.Module) -> None:
    compiled = haste_compiler.compile(small, config=CONFIG, threads=1)
    for shape in ((2, 3, 40, 36), (1, 3, 40, 36), (3, 3, 17, 23), (2, 3, 40, 36), (1, 3, 40, 36)):
        x = redundant_images(*shape, seed=3)
        check_same(compiled(x), oracle(small, CONFIG, x), 1e-4)


@pytest.mark.parametrize("layout", ["channels_last", "strided", "expanded", "transposed", "requires_grad", "numpy"])
def test_layouts(images: Tensor, compiled: CompiledModule, layout: str) -> None:
    plain: Any = images
    match layout:
        case "channels_last":
            other: Any = images.contiguous(memory_format=torch.channels_last)
        case "strided":
            other = images.repeat_interleave(2, 3)[..., ::2]
        case "expanded":
            other = images[:1].expand(2, -1, -1, -1)
            plain = other.contiguous()
        case "transposed":
            other = images.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2)
        case "requires_grad":
            other = images.clone().requires_grad_()
        case _:
            other = images.numpy()
    if layout in ("channels_last", "strided", "transposed"):
        assert not other.is_contiguous()
    y = compiled(other)
    assert torch.equal(y, compiled(plain)) and not y.requires_grad


def test_memory_that_is_not_aligned(images: Tensor, compiled: CompiledModule) -> None:
    room = torch.empty(images.numel() + 1)
    shifted = room[1:].view(images.shape).copy_(images)
    assert shifted.is_contiguous() and shifted.data_ptr() % 64
    assert torch.equal(compiled(shifted), compiled(images))


def test_no_images(net: nn.Module, images: Tensor, compiled: CompiledModule) -> None:
    y = compiled(images[:0])
    assert y.shape == (0, 10) and compiled.stats(images[:0]) == {} and compiled.profile(images[:0]) == {}
    assert haste_compiler.compile(net)(images[:0]).shape == (0, 10)
    assert haste_compiler.compile(net, (images[:0],))(images[:0]).shape == (0, 10)


def test_images_of_zeros(net: nn.Module, images: Tensor, compiled: CompiledModule) -> None:
    nothing = torch.zeros_like(images)
    check_same(compiled(nothing), oracle(net, CONFIG, nothing), 1e-4)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_in_a_dense_network(images: Tensor, broken: float) -> None:
    model = settled(Net())
    features = Fn(lambda m, x: m.net.conv1(m.net.pool(m.net.stem(x))), net=model)
    x = images.clone()
    x[0, 1, 11, 30], x[1, 0, 0, 0] = broken, -broken
    compiled = haste_compiler.compile(features, (x,), config=HasteConfig(enabled=False))
    actual, expected = compiled(x), features.eval()(x)
    assert not expected.isfinite().all() and expected.isfinite().any()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "config", [CONFIG, HasteConfig.exact(), HasteConfig.paper()], ids=["default", "exact", "paper"]
)
def test_nan_and_infinity_in_a_haste_layer(config: HasteConfig, broken: float) -> None:
    x = redundant_images(2, 16, 19, 17)
    model = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1))
    x[1, 9, 13, 2] = broken
    actual, exact = haste_compiler.compile(model, (x,), config=config)(x), model(x)
    eager = oracle(model, config, x)
    assert torch.equal(actual.isfinite(), exact.isfinite())
    torch.testing.assert_close(actual, eager, rtol=1e-4, atol=1e-4, equal_nan=True)
    # The patch with the broken pixel is computed exactly (with patches of 4 and of 8 it has this corner).
    torch.testing.assert_close(actual[1, :, 12:16, :4], exact[1, :, 12:16, :4], rtol=1e-4, atol=1e-4, equal_nan=True)


@dataclasses.dataclass
class Answer:
    """What a model may return."""

    logits: Tensor
    features: list[Tensor]


@pytest.mark.parametrize("kind", ["tuple", "dict", "nested", "dataclass", "input", "constant", "twice"])
def test_output_structures(kind: str) -> None:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.conv(x)
        match kind:
            case "tuple":
                return y, y.relu()
            case "dict":
                return {"out": y, "aux": y.mean(dim=(2, 3))}
            case "nested":
                return [y, {"a": (y.relu(), None)}], 3
            case "dataclass":
                return Answer(y, [y.relu()])
            case "input":
                return x, y
            case "constant":
                return y, m.conv.bias
        return y, y

    x = redundant_images(2, 12, 9, 9)
    model = Fn(forward, conv=nn.Conv2d(12, 12, 3)).eval()
    compiled = haste_compiler.compile(model, (x,), config=HasteConfig.exact())
    actual, expected = compiled(x), model(x)
    if kind == "dataclass":
        assert isinstance(actual, Answer)
        actual, expected = dataclasses.astuple(actual), dataclasses.astuple(expected)
    check_same(actual, expected, 1e-5)


def test_two_inputs_and_containers() -> None:
    def forward(m: Any, x: Tensor, others: dict[str, Tensor]) -> Tensor:
        return m.conv(x) + m.other(others["a"]).mean() + others["b"]

    model = Fn(forward, conv=nn.Conv2d(12, 12, 3), other=nn.Conv2d(3, 8, 1)).eval()
    inputs = (redundant_images(2, 12, 9, 9), {"a": torch.randn(1, 3, 5, 5), "b": torch.randn(12, 1, 1)})
    compiled = haste_compiler.compile(model, inputs, config=HasteConfig.exact())
    check_same(compiled(*inputs), model(*inputs), 1e-5)
    with pytest.raises(InputError, match="layer 'other' takes a tensor, but is given float"):
        compiled(inputs[0], {"a": 3.0, "b": inputs[1]["b"]})


def test_the_same_tensors_in_other_containers() -> None:
    model = Fn(lambda m, x: m.conv(x["a"]) - 2 * m.conv(x["b"]), conv=nn.Conv2d(12, 12, 3)).eval()
    a, b = redundant_images(2, 12, 9, 9), redundant_images(2, 12, 9, 9, seed=1)
    compiled = haste_compiler.compile(model, ({"a": a, "b": b},), config=HasteConfig.exact())
    for inputs in ({"a": a, "b": b}, {"b": b, "a": a}, {"b": a, "a": b}):
        check_same(compiled(inputs), model(inputs), 1e-5)


def test_compiled_for_a_numpy_array(net: nn.Module, images: Tensor, compiled: CompiledModule) -> None:
    made = haste_compiler.compile(net, (images.numpy(),), config=compiled.config, threads=1)
    assert torch.equal(made(images), compiled(images))


class Masked(nn.Module):
    """A convolution with arguments that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        y = self.conv(x) * scale
        return y if mask is None else y * mask


def test_inputs_by_name(tmp_path: Path) -> None:
    model, x, mask = Masked().eval(), torch.randn(2, 3, 8, 8), torch.rand(2, 1, 6, 6)
    compiled = haste_compiler.compile(model, (x,), config=HasteConfig(enabled=False), threads=1)
    calls: list[dict[str, Any]] = [{}, {"scale": 2.0}, {"mask": mask}, {"scale": 3, "mask": mask}]
    for named in calls:
        check_same(compiled(x, **named), model(x, **named), 1e-5)
    check_same(compiled(x, None, 2.0), model(x, scale=2.0), 1e-5)
    check_same(compiled(x=x, mask=mask), model(x, mask), 1e-5)
    compiled.save(tmp_path / "net.haste")
    loaded = haste_compiler.load(tmp_path / "net.haste")
    for named in calls:
        check_same(loaded(x, **named), model(x, **named), 1e-5)
    for other in (5.0, 3.0, 2, True):
        with pytest.raises(InputError, match=r"wasn't saved for inputs like these.* the values .*2\.0"):
            loaded(x, scale=other)
    for network in (compiled, loaded):
        wrong: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
            ((x,), {"scal": 2.0}, "there is no input 'scal': the network takes x, mask, scale"),
            ((x,), {"x": x}, "input 'x' is given by position and by name"),
            ((), {"scale": 2.0}, "input 'x' is missing"),
            ((), {}, "input 'x' is missing"),
            ((x, mask, 1.0, 2), {}, "4 inputs are given: the network takes x, mask, scale"),
        ]
        for given, named, message in wrong:
            with pytest.raises(InputError, match=message):
                network(*given, **named)


@dataclasses.dataclass
class Pair:
    image: Tensor
    mask: Tensor


def test_dataclasses_as_inputs() -> None:
    model = Fn(lambda m, pair, more: m.conv(pair.image) * pair.mask + more["z"], conv=nn.Conv2d(3, 8, 3)).eval()
    inputs = (Pair(torch.randn(2, 3, 8, 8), torch.rand(2, 1, 6, 6)), {"z": torch.rand(6)})
    compiled = haste_compiler.compile(model, inputs, config=HasteConfig(enabled=False), threads=1)
    check_same(compiled(*inputs), model(*inputs), 1e-5)


def test_numpy_arrays_as_they_come(images: Tensor, compiled: CompiledModule) -> None:
    flipped = images.numpy()[..., ::-1]
    assert torch.equal(compiled(flipped), compiled(images.flip(3)))
    with pytest.raises(InputError, match="input 0 is a NumPy array of object"):
        compiled(flipped.astype(object))


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_copies_are_refused(compiled: CompiledModule, copied: Any) -> None:
    with pytest.raises(HasteError, match="a compiled Net can't be pickled or copied"):
        copied(compiled)


def test_first_call_in_inference_mode(net: nn.Module, images: Tensor, compiled: CompiledModule) -> None:
    with torch.inference_mode():
        y = haste_compiler.compile(net, config=CONFIG, threads=1)(images)
    assert torch.equal(y, compiled(images))


def test_integer_inputs() -> None:
    model = Fn(lambda m, x, i: m.conv(x)[:, i], conv=nn.Conv2d(12, 12, 3)).eval()
    inputs = (redundant_images(2, 12, 9, 9), torch.tensor([0, 3, 5]))
    compiled = haste_compiler.compile(model, inputs, config=HasteConfig.exact())
    check_same(compiled(*inputs), model(*inputs), 1e-5)


# What is refused


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda x: x.double(), r"input 0 is torch\.float64: the network takes torch\.float32"),
        (lambda x: x.half(), r"input 0 is torch\.float16: the network takes torch\.float32"),
        (lambda x: (x * 10).long(), r"input 0 is torch\.int64: the network takes torch\.float32"),
        (lambda x: x[0], r"input 0 has shape \(3, 40, 36\), rank 3: the network takes rank 4"),
        (lambda x: x.to_sparse(), "allowed are dense tensors"),
        (lambda x: "x", "takes a tensor, but is given str"),
        (lambda x: object(), "input 0 is object: allowed are tensors"),
        (lambda x: x.to("meta"), "input 0 is on meta"),
    ],
)
def test_wrong_inputs(images: Tensor, compiled: CompiledModule, broken: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compiled(broken(images))


def check_refusal(error: BaseException) -> None:
    """One line or a few of our own words: no stack of TVM's, neither in the message nor chained to it."""
    text = str(error)
    assert "Traceback" not in text and "/tvm/" not in text and ".cc" not in text, text
    chained = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert not isinstance(chained, BaseException) or "tvm" not in type(chained).__module__, chained


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda x: x.double(), r"layer '\S+' has weights of torch\.float32, but is given torch\.float64"),
        (lambda x: x[:, :1], r"input 0 has shape \(2, 1, 40, 36\): layer 'stem\.0' takes \(N, 3, H, W\)"),
        (lambda x: x[..., 0], r"input 0 has shape \(2, 3, 40\): layer 'stem\.0' takes \(N, 3, H, W\)"),
    ],
    ids=["dtype", "channels", "rank"],
)
def test_wrong_first_inputs(net: nn.Module, images: Tensor, convert: Any, message: str, lazily: bool) -> None:
    wrong = convert(images)
    with pytest.raises(HasteError, match=message) as caught:
        if lazily:
            haste_compiler.compile(net)(wrong)
        else:
            haste_compiler.compile(net, (wrong,))
    check_refusal(caught.value)


@pytest.mark.parametrize("mode", ["dtype", "rank", "channels"])
def test_later_shapes_that_the_model_refuses(
    net: nn.Module, images: Tensor, compiled: CompiledModule, mode: str
) -> None:
    wrong = {"dtype": images.double(), "rank": images[None], "channels": images[:, :2]}[mode]
    with pytest.raises(HasteError) as caught:
        compiled(wrong)
    check_refusal(caught.value)
    assert compiled(images).shape == (2, 10)


def test_a_model_that_cannot_be_exported() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.conv(x) if float(x.sum()) > 0 else x

    with pytest.raises(CaptureError, match="Fn"):
        haste_compiler.compile(Fn(forward, conv=nn.Conv2d(8, 8, 3)), (torch.randn(1, 8, 9, 9),))


class Random(nn.Module):
    """One operator inside a layer of its own."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.conv, self.noise = nn.Conv2d(8, 8, 3), Fn(lambda m, x: function(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.noise(self.conv(x).repeat(1, 1, 2, 2)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.dropout(x, 0.5, training=True),
        lambda x: F.dropout2d(x, 0.5, training=True),
        lambda x: F.alpha_dropout(x, 0.5, training=True),
        lambda x: F.feature_alpha_dropout(x, 0.5, training=True),
        lambda x: F.rrelu(x, training=True),
        lambda x: x + torch.randn_like(x),
        lambda x: x + torch.rand_like(x),
        lambda x: x + torch.randn(x.shape),
        lambda x: x + torch.rand(x.shape),
        lambda x: x + torch.randint(0, 3, x.shape),
        lambda x: x * torch.bernoulli(torch.full_like(x, 0.5)),
        lambda x: x + torch.empty_like(x).normal_(),
        lambda x: x[:, torch.randperm(8)],
        torch.poisson,
    ],
)
def test_random_numbers_are_refused(function: Any) -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"'noise'.*random") as caught:
        haste_compiler.compile(Random(function).eval(), (torch.rand(1, 8, 6, 6),))
    check_refusal(caught.value)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.linalg.svdvals(x).sum() + x,
        lambda x: torch.fft.rfft2(x).real.repeat(1, 1, 1, 2)[..., :8],
        lambda x: torch.cdist(x, x),
        lambda x: torch.special.bessel_j0(x),
    ],
    ids=["svd", "fft", "cdist", "bessel"],
)
def test_operators_that_only_pytorch_has(function: Any, capfd: pytest.CaptureFixture[str]) -> None:
    model, x = Random(function).eval(), torch.rand(1, 8, 6, 6)
    torch.testing.assert_close(haste_compiler.compile(model, (x,))(x), model(x))
    with pytest.raises(UnsupportedOperatorError, match=r"'noise'.*fallback is off") as caught:
        haste_compiler.compile(model, (x,), fallback=False)
    check_refusal(caught.value)
    # TVM complains of what was half built when it is freed, with the traceback.
    del caught
    gc.collect()
    assert not any(capfd.readouterr())


def test_sizes_that_depend_on_values_are_refused() -> None:
    with pytest.raises(CaptureError, match="sizes that depend on the values") as caught:
        haste_compiler.compile(Random(lambda x: x.unique().sum() + x).eval(), (torch.rand(1, 8, 6, 6),))
    check_refusal(caught.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cuba", "unknown target 'cuba'"),
        ("llvm -mcpu=hasswell", "unknown CPU 'hasswell'"),
    ],
)
def test_targets_that_are_refused(net: nn.Module, images: Tensor, target: str, message: str) -> None:
    with pytest.raises(TargetError, match=message) as caught:
        haste_compiler.compile(net, (images,), target=target)
    check_refusal(caught.value)


def test_layers_that_do_not_exist(net: nn.Module, images: Tensor) -> None:
    config = HasteConfig(min_reads=0, cost_model=False, layers={"convv1": {"tolerance": 0.1}})
    with pytest.raises(ConfigError, match=r"'convv1' matches none of the .* did you mean 'conv1'"):
        haste_compiler.compile(net, (images,), config=config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": 0}, "threads is 0: allowed are whole numbers from 1 on"),
        ({"threads": 1.5}, "threads is 1.5"),
        ({"threads": 10**9}, "threads is 1000000000: allowed are whole numbers from 1 to 1024"),
        ({"config": {"tolerance": 0.1}}, "config is dict: allowed is a HasteConfig"),
        ({"example_inputs": 3}, "example_inputs is int"),
    ],
)
def test_bad_arguments(net: nn.Module, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HasteError, match=message):
        haste_compiler.compile(net, **arguments)


def test_something_that_is_no_module() -> None:
    with pytest.raises(InputError, match=r"model is function: allowed is a torch\.nn\.Module"):
        haste_compiler.compile(lambda x: x)  # type: ignore[arg-type]


# The cache on disk


def test_a_second_compilation_builds_nothing(
    net: nn.Module, images: Tensor, compiled: CompiledModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr("tvm.relax.build", build)
    again = haste_compiler.compile(net, (images,), config=CONFIG, threads=1)
    assert torch.equal(again(images), compiled(images))
    # Other weights, the same code.
    other = settled(Net())
    check_same(
        haste_compiler.compile(other, (images,), config=CONFIG, threads=1)(images), oracle(other, CONFIG, images), 1e-4
    )
    with pytest.raises(HasteError, match="built again"):
        haste_compiler.compile(net, (images,), config=CONFIG, threads=1, cache=False)(images)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "changed"])
def test_a_damaged_cache_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setenv("HASTE_CACHE", str(tmp_path))
    model, x = nn.Sequential(nn.Conv2d(8, 8, 3)), torch.randn(1, 8, 9, 9)
    config = HasteConfig(min_reads=0, cost_model=False)
    haste_compiler.compile(model, (x,), config=config)
    (stored,) = tmp_path.iterdir()
    whole = stored.read_bytes()
    damaged = {
        "empty": b"",
        "text": b"not a library",
        "cut": whole[: len(whole) // 2],
        "changed": whole[:9000] + bytes(1000) + whole[10000:],
    }[damage]
    stored.unlink()
    stored.write_bytes(damaged)
    compiled = haste_compiler.compile(model, (x,), config=config)
    check_same(compiled(x), oracle(model, config, x), 1e-5)
    assert stored.read_bytes() != damaged and list(tmp_path.iterdir()) == [stored]


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HASTE_CACHE", str(tmp_path / "file" / "cache"))
    model, x = nn.Sequential(nn.Conv2d(8, 8, 3)), torch.randn(1, 8, 9, 9)
    check_same(haste_compiler.compile(model, (x,), config=HasteConfig.exact())(x), model(x), 1e-5)


def test_as_many_channels_as_rows_and_columns() -> None:
    """Then NCHW and NHWC have the same shape, and the two changes of layout must still be different kernels."""
    model, x = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)), torch.randn(1, 8, 8, 8)
    check_same(haste_compiler.compile(model, (x,), config=HasteConfig(enabled=False))(x), model(x), 1e-5)


def test_weights_are_those_of_the_first_compile() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval(), torch.randn(1, 3, 8, 8)
    compiled = haste_compiler.compile(model, (x,), config=HasteConfig(enabled=False))
    before = compiled(x)
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(2)
    assert torch.equal(compiled(x), before)
    with pytest.raises(HasteError, match=r"0\.weight of Sequential isn't what it was .* call refresh\(\)"):
        compiled(x.repeat(2, 1, 1, 1))
    compiled.refresh()
    for batch in (1, 2):
        images = x.repeat(batch, 1, 1, 1)
        torch.testing.assert_close(compiled(images), model(images))


def test_steering_survives_a_refresh() -> None:
    model, x = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU()).eval(), torch.randn(1, 16, 12, 12)
    compiled = haste_compiler.compile(model, (x,), config=HasteConfig(cost_model=False))
    compiled.tolerance = 0.0
    exact: Tensor = compiled(x)
    compiled.refresh()
    assert torch.equal(compiled(x), exact) and compiled.tolerance == 0.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_are_computed_as_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model, x = nn.Sequential(*layers, nn.Linear(16, 5)).eval().to(dtype), torch.randn(2, 3, 9, 9).to(dtype)
    compiled = haste_compiler.compile(model, (x,))
    found = compiled(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, model(x))
    with pytest.warns(UserWarning, match="needs PyTorch"):
        compiled.save(tmp_path / "net.haste")
    assert torch.equal(haste_compiler.load(tmp_path / "net.haste")(x), found)


def test_exported_programs_are_taken() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout(), nn.BatchNorm2d(8)).eval(), torch.randn(1, 3, 8, 8)
    program = torch.export.export(model, (x,))
    for each in (program, program.module(), nn.Sequential(program.module())):
        compiled = haste_compiler.compile(each, (x,), config=HasteConfig(enabled=False))
        torch.testing.assert_close(compiled(x), model(x))
    assert haste_compiler.validate(program, haste_compiler.compile(program), x, time=False).max_rel_error < 1e-5


def test_what_follows_an_exported_graph_is_put_into_evaluation_mode() -> None:
    conv, x = nn.Conv2d(3, 8, 3).eval(), torch.randn(2, 3, 8, 8)
    model = nn.Sequential(torch.export.export(conv, (x,)).module(), nn.BatchNorm2d(8), nn.Dropout())
    found = haste_compiler.compile(model, (x,), config=HasteConfig(enabled=False))(x)
    assert model[1].training and model[2].training
    torch.testing.assert_close(found, nn.Sequential(conv, nn.BatchNorm2d(8).eval())(x))


class Autocast(nn.Module):
    """A convolution in a region of autocast."""

    def __init__(self, device: str, enabled: bool) -> None:
        super().__init__()
        self.conv, self.device, self.enabled = nn.Conv2d(3, 8, 3), device, enabled

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device, enabled=self.enabled, dtype=torch.bfloat16):
            y = self.conv(x).relu()
        return y.float() + 1


@pytest.mark.parametrize(("device", "enabled"), [("cpu", False), ("cuda", True), ("cpu", True)])
def test_regions_of_autocast(device: str, enabled: bool) -> None:
    """One that changes nothing is compiled like the rest; one that does is computed as it says."""
    model, x = Autocast(device, enabled).eval(), torch.randn(1, 3, 8, 8)
    compiled = haste_compiler.compile(model, (x,), config=HasteConfig(enabled=False))
    torch.testing.assert_close(compiled(x), model(x))
    assert bool(compiled.explain().fallbacks) == (device == "cpu" and enabled)


def test_compiling_under_autocast_changes_nothing() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval(), torch.randn(1, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compiled = haste_compiler.compile(model, (x,), config=HasteConfig(enabled=False))
        found = compiled(x)
    torch.testing.assert_close(found, model(x))


def test_a_model_that_writes_to_its_input_is_refused_by_name() -> None:
    """It was compiled without what it does to its input."""

    class Halves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x[:, 0].mul_(0.5)
            return x + 1

    first = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 1))
    for model, name in ((first, "input"), (Halves(), "x")):
        with pytest.raises(CaptureError, match=rf"writes to its input '{name}', in place, .* {name}\.clone\(\)"):
            haste_compiler.compile(model.eval(), (torch.randn(1, 3, 4, 4),), threads=1)


def test_a_call_that_waits_for_the_compiler_says_so(
    small: nn.Module, images: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    compiled = haste_compiler.compile(small, (images,), config=CONFIG, threads=1)
    with caplog.at_level(logging.WARNING):
        compiled(images)
        compiled.prepare(images[:1, :, :16])
        assert not caplog.messages
        compiled(images[:1])
    shape = "x".join(map(str, images[:1].shape))
    assert f"for {shape}, which takes some seconds; dynamic=True compiles once for all batches" in caplog.text


def test_so_does_the_first_and_the_dense_compile_but_nobody_who_asked_for_it(caplog: pytest.LogCaptureFixture) -> None:
    """The first call took up to half a minute without a word."""
    net, x = nn.Sequential(nn.Conv2d(16, 16, 3)).eval(), torch.randn(1, 16, 9, 9)
    expected = ["compiling Sequential for 1x16x9x9, which takes some seconds"]
    with caplog.at_level(logging.WARNING):
        merging = haste_compiler.compile(net, config=CONFIG, threads=1)
        merging(x)
        assert caplog.messages == expected
        haste_compiler.validate(net, merging, x, rounds=1)
        merging.dense(x)
        assert caplog.messages == expected
        merging.refresh()
        merging.dense(x)
        assert caplog.messages == expected * 2
        dense = haste_compiler.compile(net, (x,), config=HasteConfig(layers={"0": {"enabled": False}}), threads=1)
        dense.dense(x)
        assert caplog.messages == expected * 2


@pytest.mark.parametrize(
    "wrong", [torch.ones(1, 7, 9, 9), torch.ones(1, 16, 9, 9).double(), torch.ones(1, 16, 9, 9).int()]
)
def test_inputs_that_do_not_fit_are_refused_before_anything_is_said(
    wrong: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    compiled = haste_compiler.compile(nn.Sequential(nn.Conv2d(16, 16, 3)).eval(), config=CONFIG, threads=1)
    with caplog.at_level(logging.WARNING), pytest.raises(InputError):
        compiled(wrong)
    assert not caplog.messages
