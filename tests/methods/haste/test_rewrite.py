import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from haste_compiler.errors import ConfigError
from haste_compiler.graph.capture import capture
from haste_compiler.graph.nodes import get_tensor
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.reference.grouping import filter_norms
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.methods.layers import conv_layers
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.passes.pipeline import PASSES
from tests.passes.checking import Fn, assert_same, calls, check_passes, nodes, settled

EXACT = HasteConfig.exact()


def image(channels: int = 8, side: int = 12, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, side, side)


def network() -> nn.Module:
    class Block(nn.Module):
        def __init__(self, inner: int, outer: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outer)
            self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, groups=2)
            self.down = nn.Conv2d(inner, outer, 1, stride)
            self.depthwise = nn.Conv2d(outer, outer, 3, 1, 1, groups=outer)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv2(F.relu(self.bn1(self.conv1(x))))
            return F.relu(self.depthwise(F.relu(y + self.down(x))))

    return settled(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Block(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()))


def test_exact_configuration_gives_the_models_result() -> None:
    gm = check_passes(network(), image(3), config=EXACT)
    assert calls(gm)["haste.convolve"] == 3 and calls(gm)["haste.conv2d"] == 2


@pytest.mark.parametrize(
    "config", [HasteConfig(min_reads=0), HasteConfig.paper(), HasteConfig(min_reads=0, patch_size=(3, 5), skip="zeros")]
)
def test_steps_are_the_operators_in_order(config: HasteConfig) -> None:
    model, x = nn.Conv2d(8, 6, 3, padding=1, stride=2), image()
    (name,) = [layer.name for layer in conv_layers(run_passes(capture(model, (x,)), config), config)]
    gm = run_passes(capture(model, (x,)), config)
    window = ([3, 3], [2, 2], [1, 1, 1, 1], [1, 1], 1, list(config.patch_for((12, 12))))
    settings, norm = Settings.of(config).pack(), filter_norms(model.weight.detach(), 1)
    (hashed,) = nodes(gm, "haste.hash")
    planes = draw_hyperplanes(get_tensor(gm, hashed.args[1]).shape[1], config.seed, name)  # type: ignore[arg-type]
    codes = torch.ops.haste.hash(x, planes, settings, *window)
    slot, coeff, offset = torch.ops.haste.group(x, codes, norm, settings, *window, config.merge, config.skip)
    merged = torch.ops.haste.merge(x, slot, *window, config.merge)
    y = torch.ops.haste.convolve(
        merged, slot, coeff, offset, model.weight, model.bias, None, [12, 12], *window[1:], "none"
    )
    assert_same(gm(x), y, 1e-6)


def test_buffers_are_named_after_the_layer() -> None:
    gm = run_passes(capture(network(), (image(3),)), HasteConfig(min_reads=0))
    names = {name for name, _ in gm.named_buffers()}
    for layer in ("2.conv1", "2.conv2", "2.down"):
        assert {f"{layer}.planes", f"{layer}.settings", f"{layer}.filter_norm"} <= names
    assert get_tensor(gm, nodes(gm, "haste.hash")[0].args[2]).tolist() == pytest.approx([16, 0.4, 0.15])  # type: ignore[arg-type]
    # Nothing is kept that the graph does not read.
    assert names == {node.target for node in gm.graph.nodes if node.op == "get_attr"}


def test_settings_steer_the_graph() -> None:
    model, x = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1)).eval(), image(16).abs()
    gm = run_passes(capture(model, (x,)), HasteConfig(min_reads=0, num_hyperplanes=2, skip="none"))
    gm.get_buffer("0.settings")[1] = 0.0
    assert_same(gm(x), model(x))
    gm.get_buffer("0.settings")[1] = float("inf")
    assert (gm(x) - model(x)).norm() > 0.05 * model(x).norm()


def test_every_node_knows_its_layer() -> None:
    gm = run_passes(capture(network(), (image(3),)), HasteConfig(min_reads=0))
    for kind in ("hash", "group", "merge", "convolve"):
        assert [node.meta["layer"] for node in nodes(gm, f"haste.{kind}")] in (
            ["2.conv1", "2.down", "2.conv2"],
            ["2.conv1", "2.conv2", "2.down"],
        )


def branches(self: Any, x: Tensor) -> Tensor:
    return self.a(x) + self.b(x) + F.relu(self.c(x)) + self.d(x)


def same_windows() -> nn.Module:
    convs = {name: nn.Conv2d(8, 8, 3, padding=1) for name in "abc"}
    return Fn(branches, **convs, d=nn.Conv2d(8, 8, 1)).eval()


def test_layers_that_read_the_same_windows_share() -> None:
    model, x = same_windows(), image()
    gm = check_passes(model, x, config=EXACT)
    assert [calls(gm)[f"haste.{kind}"] for kind in ("hash", "group", "merge", "convolve")] == [2, 2, 2, 4]
    shared = nodes(gm, "haste.group")[0]
    assert shared.meta["layers"] == ["a", "b", "c"] and shared.meta["layer"] == "a"
    assert sorted(node.meta["layer"] for node in nodes(gm, "haste.convolve")) == ["a", "b", "c", "d"]
    norms = [filter_norms(model.get_parameter(f"{name}.weight").detach(), 1) for name in "abc"]
    expected = torch.stack(norms).square().sum(0).sqrt()
    assert torch.allclose(get_tensor(gm, shared.args[2]), expected)  # type: ignore[arg-type]
    planes = get_tensor(gm, nodes(gm, "haste.hash")[0].args[1])  # type: ignore[arg-type]
    assert torch.equal(planes, draw_hyperplanes(planes.shape[1], 0, "a", EXACT.nonzeros))


@pytest.mark.parametrize(
    "override",
    [{"tolerance": 0.1}, {"num_hyperplanes": 3}, {"merge": "mean"}, {"skip": "none"}, {"seed": 1}, {"patch_size": 4}],
)
def test_layers_of_different_settings_do_not_share(override: dict[str, object]) -> None:
    config = HasteConfig(min_reads=0, layers={"b": override})
    gm = run_passes(capture(same_windows(), (image(),)), config)
    assert calls(gm)["haste.hash"] == 3
    assert sorted(node.meta["layers"] for node in nodes(gm, "haste.hash")) == [["a", "c"], ["b"], ["d"]]


def test_what_decides_who_takes_part_does_not_hinder_sharing() -> None:
    config = HasteConfig(min_reads=0, layers={"b": {"min_channels": 2}, "d": {"enabled": False}})
    gm = run_passes(capture(same_windows(), (image(),)), config)
    assert [node.meta["layers"] for node in nodes(gm, "haste.hash")] == [["a", "b", "c"]]
    assert [node.meta["layer"] for node in nodes(gm, "haste.conv2d")] == ["d"]


@pytest.mark.parametrize("change", [{"stride": 2}, {"padding": 0}, {"dilation": 2}, {"kernel_size": 1}, {"groups": 2}])
def test_layers_that_read_other_windows_do_not_share(change: dict[str, int]) -> None:
    plain = {"in_channels": 8, "out_channels": 8, "kernel_size": 3, "padding": 1}
    model = Fn(lambda self, x: (self.a(x), self.b(x)), a=nn.Conv2d(**plain), b=nn.Conv2d(**plain | change))  # type: ignore[arg-type]
    gm = check_passes(model, image(), config=EXACT.replace(min_channels=2))
    assert calls(gm)["haste.hash"] == 2


def test_module_called_twice() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    gm = check_passes(nn.Sequential(conv, nn.ReLU(), conv), image(), config=EXACT)
    assert [node.meta["layer"] for node in nodes(gm, "haste.convolve")] == ["0", "0#2"]
    first, second = (get_tensor(gm, node.args[1]) for node in nodes(gm, "haste.hash"))  # type: ignore[arg-type]
    assert not torch.equal(first, second)
    gm = run_passes(
        capture(nn.Sequential(conv, conv), (image(),)), HasteConfig(min_reads=0, layers={"0#2": {"enabled": False}})
    )
    assert calls(gm)["haste.convolve"] == 1


def test_conv_layers_say_why() -> None:
    config = HasteConfig(min_reads=0, layers={"2.conv2": {"enabled": False}})
    captured = capture(network(), (image(3),))
    seen = {}

    def observe(name: str, gm: object) -> None:
        seen[name] = {layer.name: layer for layer in conv_layers(gm, config)}  # type: ignore[arg-type]

    run_passes(captured, config, observe)
    assert all(not layer.eligible for layer in seen["canonicalize"].values())
    assert set(seen["canonicalize"]) == set(seen["fuse_epilogue"]) == set(seen["rewrite_haste"])
    layers = seen["fuse_epilogue"]
    assert {name for name, layer in layers.items() if layer.eligible} == {"2.conv1", "2.down"}
    assert "3 input channels per group, fewer than min_channels=8" in layers["0"].reason
    assert "depthwise" in layers["2.depthwise"].reason
    assert "disabled" in layers["2.conv2"].reason
    for name, layer in seen["rewrite_haste"].items():
        assert layer.eligible == layers[name].eligible
        assert layer.geometry is not None and layer.geometry == layers[name].geometry
    assert layers["2.conv1"].geometry is not None
    assert layers["2.conv1"].geometry.stride == (2, 2)


def test_layer_patterns_that_match_nothing() -> None:
    captured = capture(network(), (image(3),))
    for config in (
        HasteConfig(min_reads=0, layers={"2.conv9": {}}),
        HasteConfig(enabled=False, layers={"layer*": {"seed": 1}}),
    ):
        with pytest.raises(ConfigError, match=r"conv9|layer\*"):
            run_passes(captured, config)
    with pytest.raises(ConfigError):
        run_passes(captured, HasteConfig(min_reads=0, layers={"2.depthwise": {"seed": 1}}))
    run_passes(captured, HasteConfig(min_reads=0, layers={"0": {"min_channels": 1}, "2.*": {"enabled": False}}))


def test_passes_are_observed_in_order() -> None:
    seen = []
    run_passes(capture(network(), (image(3),)), HasteConfig(min_reads=0), lambda name, gm: seen.append(name))
    assert seen == [*(step.name for step in PASSES), "choose_layers", "rewrite_haste", "allow_winograd"]


def test_geometry_of_rectangles() -> None:
    conv = nn.Conv2d(12, 9, (3, 2), (2, 1), (1, 0), (1, 2), groups=3)
    for patch, skip in itertools.product([(1, 1), (2, 3), (64, 64)], ["none", "zeros"]):
        config = EXACT.replace(patch_size=patch, skip=skip, min_channels=4)
        gm = check_passes(conv, torch.randn(3, 12, 9, 7), config=config)
        assert calls(gm)["haste.convolve"] == 1
