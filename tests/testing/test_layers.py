"""Every layer on its own input: nothing is found in what is right, a planted fault where it was planted."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from tvm import relax

import haste_compiler
from haste_compiler import HasteConfig, InputError
from haste_compiler.codegen.rules import layout
from haste_compiler.demo import load_network
from haste_compiler.graph.nodes import is_call, layer_name
from haste_compiler.methods.haste.method import Haste
from haste_compiler.methods.haste.ops.convolve import CONVOLVE, ConvolveCall
from haste_compiler.methods.haste.rewrite import rewrite_haste
from haste_compiler.passes import pipeline
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.runtime.rewritten import Owner, owned_layers
from haste_compiler.testing.layers import LayerCheck, check_layers
from haste_compiler.testing.passes import find_broken_pass
from tests.methods.haste.networks import redundant_images
from tests.testing.faults import alter, constants_of, unharmed

CONFIG = HasteConfig(cost_model=False)
IMAGES = redundant_images(2, 1, 32, 32, seed=0)
CONVOLUTIONS = {
    "stem.0",
    *(f"blocks.{block}.conv{conv}" for block in range(3) for conv in (1, 2)),
    "blocks.1.shortcut.0",
}
OWNED = dict.fromkeys(CONVOLUTIONS, Owner("haste"))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return load_network().eval()


@pytest.fixture(scope="module")
def network(model: nn.Module) -> CompiledModule:
    return haste_compiler.compile(model, (IMAGES,), config=CONFIG)


@pytest.fixture
def compiled(network: CompiledModule) -> Iterator[CompiledModule]:
    with unharmed(network) as compiled:
        yield compiled


def wrong(checks: list[LayerCheck]) -> list[str]:
    return [check.name for check in checks if check.wrong]


@pytest.mark.parametrize("config", [HasteConfig(enabled=False), CONFIG, HasteConfig.paper()])
def test_nothing_is_wrong(model: nn.Module, config: HasteConfig) -> None:
    compiled = haste_compiler.compile(model, (IMAGES,), config=config)
    checks = check_layers(model, compiled, (IMAGES,))
    assert not wrong(checks) and max(check.error for check in checks) < 1e-5
    assert {check.name for check in checks if check.kind in ("conv", "haste")} == CONVOLUTIONS
    owned = owned_layers(compiled, (IMAGES,))
    assert [check.name for check in checks if check.kind == "haste"] == list(owned) and {
        each.method for each in owned.values()
    } <= {"haste"}
    assert find_broken_pass(model, (IMAGES,), config, owned) is None


def test_steered_settings_are_followed(model: nn.Module) -> None:
    compiled = haste_compiler.compile(model, (IMAGES,), config=CONFIG)
    before = check_layers(model, compiled, (IMAGES,))
    compiled.tolerance, compiled.flat_tolerance, compiled.num_hyperplanes = None, {"blocks.0.*": 0.6}, 6
    after = check_layers(model, compiled, (IMAGES,))
    assert not wrong(after)
    merging = [{check.name: check.merging for check in checks if check.merging} for checks in (before, after)]
    assert merging[1]["blocks.0.conv1"] > 2 * merging[0]["blocks.0.conv1"]


def test_a_saved_network(model: nn.Module, compiled: CompiledModule, tmp_path: Any) -> None:
    compiled.save(tmp_path / "net.haste")
    loaded = haste_compiler.load(tmp_path / "net.haste")
    assert check_layers(model, loaded, (IMAGES,)) == check_layers(model, compiled, (IMAGES,))


@pytest.mark.parametrize(
    ("layer", "kernel", "position"),
    [
        ("stem.0", "conv2d", 0),
        ("blocks.0.conv1", "haste_group", 0),  # hyperplanes
        ("blocks.0.conv1", "haste_convolve", 0),  # filters
        ("blocks.0.conv1", "haste_convolve", 1),  # sums of the filters' taps
        ("blocks.2.conv1", "haste_convolve", 2),  # bias
        ("blocks.2.conv2", "haste_convolve", 0),
        ("head", "linear", 0),
    ],
)
def test_wrong_constants(model: nn.Module, compiled: CompiledModule, layer: str, kernel: str, position: int) -> None:
    constant = constants_of(compiled, IMAGES, layer, kernel)[position]
    if kernel == "haste_group":
        constant.copy_(torch.randn(constant.shape))
    elif position == 1:
        constant.add_(constant.abs().max())
    else:
        alter(constant)
    found = check_layers(model, compiled, (IMAGES,))
    assert wrong(found) == [layer]
    assert f" {kernel}_" in str(next(check for check in found if check.wrong))


def test_a_wrong_filter_says_which_channel(model: nn.Module, compiled: CompiledModule) -> None:
    bias = constants_of(compiled, IMAGES, "blocks.0.conv2", "haste_convolve")[2]
    bias.view(-1)[5] += 10
    check = next(check for check in check_layers(model, compiled, (IMAGES,)) if check.wrong)
    assert "all in channel 5;" in check.wrong and check.error > 1e-2


@pytest.mark.parametrize("merge", ["mean", "projection"])
def test_near_ties_are_no_faults(merge: Any) -> None:
    # The middle channel is the mean of all: what is hashed of it is nothing but rounding.
    config = HasteConfig(
        cost_model=False, tolerance=None, skip="none", merge=merge, num_hyperplanes=2, nonzeros=None, patch_size=4
    )
    model, middle, around = nn.Conv2d(17, 8, 3, padding=1).eval(), torch.randn(2, 1, 16, 16), torch.randn(2, 8, 16, 16)
    x = torch.cat([middle + around, middle, middle - around], 1)
    compiled = haste_compiler.compile(model, (x,), config=config)
    (check,) = check_layers(model, compiled, (x,))
    assert not check.wrong and check.near_ties > 5 and check.error < 1e-5
    bias = constants_of(compiled, x, check.name, "haste_convolve")[-1]
    bias.view(-1)[3] += 1
    (check,) = check_layers(model, compiled, (x,))
    assert re.search(r"most at \[\d, 3, ", check.wrong)


class Wired(nn.Module):
    """Two convolutions, and between them an operator that has no kernel of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(y * torch.exp(-y)).flatten(1)


def test_a_fault_between_two_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Wired().eval(), redundant_images(1, 8, 12, 12)
    assert not wrong(check_layers(model, haste_compiler.compile(model, (x,), cache=False), (x,)))
    monkeypatch.setitem(layout._BINARY, torch.ops.aten.mul.Tensor, relax.op.subtract)
    found = check_layers(model, haste_compiler.compile(model, (x,), cache=False), (x,))
    assert wrong(found) == ["second"]
    assert "it reads something wrong, made of first by" in found[-1].wrong and "mul" in found[-1].wrong


def test_a_fault_after_the_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.conv(x)
            return y, y * x[:, :, 1:-1, 1:-1]

    model, x = Scaled().eval(), redundant_images(1, 8, 12, 12)
    monkeypatch.setitem(layout._BINARY, torch.ops.aten.mul.Tensor, relax.op.subtract)
    found = check_layers(model, haste_compiler.compile(model, (x,), cache=False), (x,))
    assert wrong(found) == ["output[1]"] and "mul" in found[-1].wrong


def test_an_empty_batch(model: nn.Module, compiled: CompiledModule) -> None:
    with pytest.raises(InputError, match="no layers to look at in an empty batch"):
        check_layers(model, compiled, (IMAGES[:0],))


# Passes


def broken(step: pipeline.Pass, layer: str) -> pipeline.Pass:
    """A pass that, besides what it does, doubles the filters of a layer."""

    def run(gm: fx.GraphModule, *rest: Any) -> fx.GraphModule:
        gm = step.run(gm, *rest)
        for node in gm.graph.nodes:
            weight = next((each for each in node.all_input_nodes if each.op == "get_attr"), None)
            if weight is not None and node.op == "call_function" and layer_name(node) == layer:
                weights = [each for each in node.all_input_nodes if each.op == "get_attr"]
                largest = max(weights, key=lambda each: each.meta["val"].numel())
                owner, _, name = str(largest.target).rpartition(".")
                module = gm.get_submodule(owner)
                value = getattr(module, name).detach() * 2
                delattr(module, name)
                module.register_buffer(name, value)
                return gm
        raise AssertionError(f"no layer {layer}")

    return pipeline.Pass(step.name, run)


@pytest.fixture
def break_pass(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def install(name: str, layer: str) -> None:
        passes = tuple(broken(step, layer) if step.name == name else step for step in pipeline.PASSES)
        monkeypatch.setattr(pipeline, "PASSES", passes)

    yield install


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("fold_batch_norm", "blocks.1.conv2"),
        ("extract_convs", "stem.0"),
        ("fuse_epilogue", "blocks.1.shortcut.0"),
        ("fuse_epilogue", "blocks.2.conv2"),
        ("extract_linears", "head"),
    ],
)
def test_a_broken_pass(model: nn.Module, break_pass: Any, name: str, layer: str) -> None:
    break_pass(name, layer)
    found = find_broken_pass(model, (IMAGES,), CONFIG, OWNED)
    assert found is not None and (found.name, found.layer) == (name, layer)
    assert "elements differ" in str(found)


def test_a_pass_that_breaks_a_haste_layer(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def shift(self: Haste, gm: fx.GraphModule, config: HasteConfig) -> fx.GraphModule:
        gm = rewrite_haste(gm, config)
        for node in gm.graph.nodes:
            if is_call(node, CONVOLVE) and layer_name(node) == "blocks.0.conv2":
                ConvolveCall.of(node).replace(padding=[0, 2, 1, 1]).write_to(node)  # top, bottom
        return gm

    monkeypatch.setattr(Haste, "rewrite", shift)
    found = find_broken_pass(model, (IMAGES,), CONFIG, OWNED)
    assert found is not None and (found.name, found.layer) == ("rewrite_haste", "blocks.0.conv2")
