"""HASTE convolutions in plain PyTorch models."""

import copy
import pickle
from typing import Literal

import pytest
import torch
from torch import nn

from haste_compiler.errors import ConfigError, InputError, UnsupportedOperatorError
from haste_compiler.methods.haste.config import MAX_HYPERPLANES, HasteConfig
from haste_compiler.methods.haste.reference.module import HasteConv2d
from haste_compiler.methods.haste.reference.swap import swap_convs
from haste_compiler.methods.macs import MacCount
from tests.methods.haste.networks import SmallNet, redundant_images

NOTHING_MERGED = HasteConfig(min_reads=0, num_hyperplanes=MAX_HYPERPLANES, tolerance=0.0, skip="none")


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, (1, 2), "same", "valid"])
def test_padding(
    padding: int | tuple[int, int] | str, padding_mode: Literal["zeros", "reflect", "replicate", "circular"]
) -> None:
    conv = nn.Conv2d(8, 4, (3, 4), padding=padding, padding_mode=padding_mode, dilation=(2, 1))
    x = torch.randn(2, 8, 11, 12)
    torch.testing.assert_close(HasteConv2d.from_conv(conv, NOTHING_MERGED)(x), conv(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stride", [2, (1, 3)])
def test_single_image(stride: int | tuple[int, int]) -> None:
    conv = nn.Conv2d(8, 4, 3, stride=stride, groups=2, bias=False)
    x = torch.randn(8, 11, 12)
    torch.testing.assert_close(HasteConv2d.from_conv(conv, NOTHING_MERGED)(x), conv(x), atol=1e-5, rtol=1e-5)


def test_forward_is_what_analyse_describes() -> None:
    layer = HasteConv2d.from_conv(nn.Conv2d(24, 16, 3, padding=1), HasteConfig(min_reads=0, num_hyperplanes=4), "a")
    x = redundant_images(2, 24, 16, 16)
    result, macs = layer.analyse(x)
    torch.testing.assert_close(layer(x), result.output)
    assert isinstance(macs, MacCount)
    assert macs.dense == 2 * 24 * 16 * 9 * 256
    assert 0 < macs.convolution < macs.dense


def test_steering_between_calls() -> None:
    conv = nn.Conv2d(24, 16, 3, padding=1)
    layer = HasteConv2d.from_conv(conv, HasteConfig(min_reads=0, num_hyperplanes=3, skip="none"))
    x = redundant_images(2, 24, 16, 16)
    dense = conv(x)
    errors = []
    for changes in ({"tolerance": None}, {"tolerance": 0.3}, {"tolerance": 0.0, "num_hyperplanes": MAX_HYPERPLANES}):
        layer.configure(**changes)
        errors.append(float((layer(x) - dense).norm() / dense.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5
    with pytest.raises(ConfigError, match="num_hyperplanes"):
        layer.configure(num_hyperplanes=31)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(1, 8, 9, 9, dtype=torch.float64), "float64"),
        (torch.zeros(8, 9), r"\(8, 9\)"),
        (torch.zeros(1, 7, 9, 9), "expected 8 channels, got 7"),
        (torch.zeros(1, 8, 2, 9), "smaller than the 3x3 kernel"),
    ],
)
def test_wrong_inputs(x: torch.Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        HasteConv2d.from_conv(nn.Conv2d(8, 4, 3))(x)


def test_swap_replaces_every_eligible_convolution_and_only_those() -> None:
    net = SmallNet().eval()
    before = copy.deepcopy(net.state_dict())
    swapped = swap_convs(net, NOTHING_MERGED)
    kinds = {name: type(module) for name, module in swapped.named_modules(remove_duplicate=False)}
    assert {name for name, kind in kinds.items() if kind is HasteConv2d} == {"grouped", "strided", "shared.0", "again"}
    assert swapped.get_submodule("shared.0") is swapped.get_submodule("again")
    assert not any(isinstance(module, HasteConv2d) for module in net.modules())
    x = torch.randn(3, 3, 15, 18)
    torch.testing.assert_close(swapped(x), net(x), atol=1e-5, rtol=1e-5)
    assert swapped.state_dict().keys() == before.keys()
    swapped.load_state_dict(before)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert pickle.loads(pickle.dumps(swapped))(x).shape == (3, 5)
    with torch.enable_grad():
        torch.testing.assert_close(swapped(x), net(x), atol=1e-5, rtol=1e-5)


def test_swap_stays_close() -> None:
    net = SmallNet().eval()
    x = redundant_images(4, 3, 24, 24)
    y, dense = swap_convs(net, HasteConfig(min_reads=0, tolerance=0.6))(x), net(x)
    assert 0 < float((y - dense).norm() / dense.norm()) < 0.3


def test_swap_follows_the_overrides() -> None:
    config = HasteConfig(
        min_reads=0, layers={"*": {"num_hyperplanes": 5}, "s*": {"enabled": False}, "again": {"merge": "mean"}}
    )
    with pytest.raises(ConfigError, match="again"):
        swap_convs(SmallNet(), config)
    config = config.replace(
        layers={"*": {"num_hyperplanes": 5}, "s*": {"enabled": False}, "shared.0": {"enabled": True}}
    )
    swapped = swap_convs(SmallNet(), config)
    found = {name: module for name, module in swapped.named_modules() if isinstance(module, HasteConv2d)}
    assert set(found) == {"grouped", "shared.0"}
    assert all(module.config.num_hyperplanes == 5 and module.name == name for name, module in found.items())
    disabled = swap_convs(SmallNet(), HasteConfig(enabled=False))
    assert not any(isinstance(module, HasteConv2d) for module in disabled.modules())


def test_swap_a_lone_convolution() -> None:
    conv = nn.Conv2d(16, 8, 3)
    assert isinstance(swap_convs(conv), HasteConv2d)
    assert type(swap_convs(conv, HasteConfig(min_reads=0, min_channels=17))) is nn.Conv2d
    assert type(swap_convs(nn.Conv2d(16, 16, 3, groups=16), HasteConfig(min_reads=0, min_channels=1))) is nn.Conv2d


def test_swap_replaces_a_convolution_in_every_place_that_it_stands() -> None:
    conv = nn.Conv2d(16, 16, 3, padding=1)
    swapped = swap_convs(nn.Sequential(conv, nn.ReLU(), nn.Sequential(conv, conv)))
    places = [swapped.get_submodule(name) for name in ("0", "2.0", "2.1")]
    assert isinstance(places[0], HasteConv2d) and all(place is places[0] for place in places)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_swap_refuses_to_lose_hooks(register: str) -> None:
    net = SmallNet()
    getattr(net.stem, register)(lambda *args: None)
    swap_convs(net)
    getattr(net.grouped, register)(lambda *args: None)
    with pytest.raises(UnsupportedOperatorError, match="grouped has forward hooks"):
        swap_convs(net)
    kept = swap_convs(net, HasteConfig(layers={"grouped": {"enabled": False}}))
    assert type(kept.get_submodule("grouped")) is nn.Conv2d


@pytest.mark.parametrize("dynamic", [False, True])
def test_export(dynamic: bool) -> None:
    net = swap_convs(SmallNet().eval(), HasteConfig(min_reads=0, patch_size=4))
    x = redundant_images(4, 3, 16, 16)
    batch = {0: torch.export.Dim("batch")} if dynamic else None
    program = torch.export.export(net, (x,), dynamic_shapes=(batch,) if dynamic else None)
    targets = [str(node.target) for node in program.graph.nodes if str(node.target).startswith("haste")]
    for name in ("hash", "group", "merge", "convolve"):
        assert targets.count(f"haste.{name}.default") == 4
    again = redundant_images(3 if dynamic else 4, 3, 16, 16, seed=1)
    torch.testing.assert_close(program.module()(again), net(again))


def test_print() -> None:
    layer = HasteConv2d.from_conv(nn.Conv2d(16, 8, 3, stride=2, padding=1))
    assert "16, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)" in repr(layer)
