"""Which layers become HASTE convolutions, what the compiled network says about it, and what can be steered."""

import json
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, fx, nn

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.codegen.cpu.cost import CostModel
from haste_compiler.codegen.cpu.target import VectorUnit
from haste_compiler.codegen.machine import Machine
from haste_compiler.codegen.target import machine_of, parse_target
from haste_compiler.cost import pricing
from haste_compiler.cost.calibration import default_model
from haste_compiler.errors import ConfigError, InputError
from haste_compiler.graph.capture import capture
from haste_compiler.graph.nodes import layer_name
from haste_compiler.methods.choose import pays
from haste_compiler.methods.explanation import Explanation
from haste_compiler.methods.layers import conv_layers
from haste_compiler.methods.method import Site
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.methods.prediction import Estimate, Prediction


class Fork(nn.Module):
    """Two convolutions that read the same windows, and a third one."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.last = nn.Conv2d(32, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.left(x)
        return self.last(self.right(x)) + y[:, :, 1:-1, 1:-1]


def prediction(dense: float, haste: float, grouping: float = 0.0, gate: tuple[float, ...] = ()) -> Prediction:
    estimate = Estimate(haste, grouping, 0.5)
    return Prediction(dense, Estimate(0.1 * haste, 0.1 * grouping, 0.1), estimate, gate)


def chosen(predictions: Mapping[str, Prediction], config: HasteConfig | None = None) -> dict[str, str]:
    """Names and reasons of the layers that become HASTE convolutions under predictions made up here."""
    config = config or HasteConfig()

    def predict(gm: fx.GraphModule, sites: Sequence[Site]) -> list[list[Prediction]]:
        return [[predictions[layer_name(node)] for node in site.nodes] for site in sites]

    gm = run_passes(capture(Fork(), (torch.randn(1, 16, 12, 12),)), config, None, predict)
    layers = conv_layers(gm, config)
    assert all(layer.prediction is None or layer.prediction == predictions[layer.name] for layer in layers)
    calls = [node for node in gm.graph.nodes if node.target is torch.ops.haste.convolve.default]
    assert {layer_name(node) for node in calls} == {layer.name for layer in layers if layer.eligible}
    return {layer.name: layer.reason for layer in layers if layer.eligible}


def test_layers_that_share_a_grouping_are_judged_together() -> None:
    # The first bears the grouping: by itself it would lose.
    left, right = prediction(1.0, 1.0, 0.5), prediction(2.0, 1.2)
    assert set(chosen({"left": left, "right": right, "last": prediction(1.0, 0.99)})) == {"left", "right"}
    dear = prediction(1.0, 1.8, 1.0)
    assert set(chosen({"left": dear, "right": right, "last": prediction(1.0, 0.5)})) == {"last"}


def test_where_a_layer_is_forced_the_others_get_its_grouping_for_nothing() -> None:
    config = HasteConfig(layers={"right": {"cost_model": False}})
    predictions = {"left": prediction(1.0, 1.2, 0.5), "right": prediction(2.0, 9.0), "last": prediction(1.0, 1.0)}
    assert set(chosen(predictions, config)) == {"left", "right"}
    predictions["left"] = prediction(1.0, 1.6, 0.5)
    assert set(chosen(predictions, config)) == {"right"}
    # Nothing is predicted where nothing is asked.
    assert set(chosen({}, HasteConfig(cost_model=False))) == {"left", "right", "last"}


def test_a_layer_must_gain_more_than_predictions_are_wrong() -> None:
    assert pays([prediction(1.0, 0.7)], 0.75) and not pays([prediction(1.0, 0.8)], 0.75)
    assert not pays([Prediction(1.0, Estimate(0.95, 0.1, 0.1))], 0.75)
    reasons = chosen({name: prediction(1e-3, 0.7e-3) for name in ("left", "right", "last")})
    assert reasons["last"] == "predicted 1.00 ms dense, 0.70 ms HASTE at 50% kept"


@pytest.mark.parametrize("forced", [False, True])
def test_layers_that_share_a_grouping_share_a_gate_and_forced_ones_have_none(forced: bool) -> None:
    gates = {"left": (5.0, 1.0, 2.0), "right": (4.0, 0.5, 0.25), "last": (3.0, 0.0, 0.0)}
    config = HasteConfig(layers={"right": {"cost_model": False}} if forced else {})

    def predict(gm: fx.GraphModule, sites: Sequence[Site]) -> list[list[Prediction]]:
        return [[prediction(1.0, 0.5, gate=gates[layer_name(node)]) for node in each.nodes] for each in sites]

    gm = run_passes(capture(Fork(), (torch.randn(1, 16, 12, 12),)), config, None, predict)
    merges = [node for node in gm.graph.nodes if node.target is torch.ops.haste.merge.default]
    shared = None if forced else (9.0, 1.5, 2.25)
    assert {node.meta["layer"]: node.meta["gate"] for node in merges} == {"left": shared, "last": gates["last"]}


@pytest.fixture
def fixed_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own coefficients, so that choices don't depend on the machine, and nothing is measured."""

    def model(machine: Machine) -> CostModel:
        return default_model(VectorUnit(16, 32), machine.threads)

    monkeypatch.setattr(pricing, "cost_model", model)


def redundant(width: int) -> nn.Module:
    """The second convolution's input channels are copies of few; the fourth's are all different."""
    first, third = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
    with torch.no_grad():
        first.weight.copy_(first.weight[:4].repeat(width // 4, 1, 1, 1))
        assert first.bias is not None
        first.bias.copy_(first.bias[:4].repeat(width // 4))
        third.weight.copy_(torch.randn_like(third.weight))
    return nn.Sequential(first, nn.Conv2d(width, width, 3, padding=1), nn.Tanh(), third, nn.Conv2d(width, 8, 3))


@pytest.mark.usefixtures("fixed_costs")
def test_the_default_finds_redundant_layers_and_leaves_the_rest() -> None:
    net, x = redundant(128).eval(), torch.randn(1, 3, 40, 40)
    compiled = haste_compiler.compile(net, (x,), threads=1)
    found = {layer.name: layer for layer in compiled.explain().layers}
    assert found["1"].haste and not found["0"].haste
    kept = found["1"].kept
    assert kept is not None and kept < 0.2 and "3 input channels" in found["0"].reason
    assert found["1"].haste_ms is not None and found["1"].dense_ms is not None
    assert found["1"].haste_ms < 0.9 * found["1"].dense_ms
    stats = compiled.stats(x)
    assert set(stats) == {name for name, layer in found.items() if layer.haste}
    # The copies are there whatever the image, so that the gate stays open.
    assert not stats["1"].gave_up and stats["1"].kept < 0.3
    again = haste_compiler.compile(net, (x,), threads=1)
    assert again.explain() == compiled.explain()


@pytest.mark.parametrize("pays_off", [True, False])
def test_a_machine_is_measured_only_where_a_layer_could_merge(monkeypatch: pytest.MonkeyPatch, pays_off: bool) -> None:
    asked: list[Machine] = []

    def measured(machine: Machine) -> CostModel:
        asked.append(machine)
        return default_model(VectorUnit(16, 32), machine.threads)

    monkeypatch.setattr(pricing, "cost_model", measured)
    monkeypatch.setattr(pricing, "guess", lambda machine: default_model(VectorUnit(16, 32), machine.threads))
    net = redundant(128) if pays_off else nn.Sequential(nn.Conv2d(16, 16, 3, padding=1))
    x, config = torch.randn(1, 3 if pays_off else 16, 40, 40), HasteConfig()
    predict = pricing.Pricing(machine_of(parse_target("llvm"), 1), [x])
    gm = run_passes(capture(net.eval(), (x,)), config, None, predict)
    layers = {layer.name: layer for layer in conv_layers(gm, config)}
    assert bool(asked) == pays_off and any(layer.eligible for layer in layers.values()) == pays_off
    # What was guessed is said, and the layer's reason is the rule's.
    assert pays_off or "75% at most is taken" in layers["0"].reason


@pytest.mark.usefixtures("fixed_costs")
def test_a_layer_that_finds_nothing_to_merge_is_computed_densely_in_that_call() -> None:
    net, x = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1)).eval(), torch.randn(2, 64, 40, 40)
    # On the made-up images many channels are flat somewhere; on noise none is.
    compiled = haste_compiler.compile(net, (x,), config=HasteConfig(flat_tolerance=0.7, winograd=0), threads=1)
    alike = x[:, :1].expand_as(x)
    if not compiled.layers[0].eligible:
        pytest.fail(f"the layer is dense: {compiled.layers[0].reason}")
    noise, copies = compiled.stats(x)["0"], compiled.stats(alike)["0"]
    assert noise.gave_up and noise.kept == 1 and noise.error_bound == 0
    assert -0.05 < noise.macs.reduction < 0 and noise.macs.convolution == noise.macs.dense
    assert not copies.gave_up and copies.kept < 0.2
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("fixed_costs")
def test_dense_layers_cannot_be_steered_and_the_error_says_why() -> None:
    net, x = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Tanh(), nn.Conv2d(16, 4, 3)).eval(), torch.randn(1, 16, 9, 9)
    config = HasteConfig(layers={"2": {"cost_model": False}})
    compiled = haste_compiler.compile(net, (x,), config=config, threads=1)
    assert [layer.eligible for layer in compiled.layers] == [False, True]
    compiled.tolerance = {"2": 0.1}
    with pytest.raises(ConfigError, match="'0' is a dense convolution, which has nothing to steer: predicted"):
        compiled.tolerance = {"0": 0.1}
    with pytest.raises(ConfigError, match="matches none of the 1 HASTE layers"):
        compiled.tolerance = {"7": 0.1}
    assert compiled.tolerance == 0.1


@pytest.mark.usefixtures("fixed_costs")
def test_a_network_without_haste_layers_is_its_own_dense_compile() -> None:
    net, x = nn.Sequential(nn.Conv2d(16, 16, 3)).eval(), torch.randn(1, 16, 9, 9)
    compiled = haste_compiler.compile(net, (x,), threads=1)
    assert not compiled.layers[0].eligible
    assert torch.equal(compiled.dense(x), compiled(x))
    assert compiled.dense._made[next(iter(compiled._made))] is next(iter(compiled._made.values()))


@pytest.mark.usefixtures("fixed_costs")
def test_an_explanation_is_a_table_and_json() -> None:
    net, x = redundant(64).eval(), torch.randn(1, 3, 24, 24)
    compiled = haste_compiler.compile(net, threads=1)
    with pytest.raises(InputError, match="Sequential is not compiled yet"):
        compiled.explain()
    compiled(x)
    explanation = compiled.explain()
    assert isinstance(explanation, Explanation) and [layer.name for layer in explanation.layers] == list("0134")
    stored = json.loads(explanation.to_json())
    assert stored == explanation.to_dict()
    assert [layer["haste"] for layer in stored["layers"]] == [layer.eligible for layer in compiled.layers]
    lines = str(explanation).splitlines()
    assert f"of {len(explanation.layers)} convolutions HASTE" in lines[0]
    for layer in explanation.layers:
        assert sum(layer.reason in line for line in lines) >= 1
