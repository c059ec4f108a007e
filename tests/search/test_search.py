"""search(): on the carried network, end to end."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import haste_compiler
from haste_compiler import BudgetError, HasteConfig, InputError, QuantizedConfig, SearchResult
from haste_compiler.demo import load_network
from haste_compiler.methods.configs import Configs
from haste_compiler.methods.registry import method
from haste_compiler.search.clock import Clock
from haste_compiler.search.runner import Measured, Runner


class Small(nn.Module):
    """Two convolutions that can be merged and one that can't, with a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.Conv2d(16, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 24, 3, padding=1)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(x.mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    noise = torch.randn(40, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(noise, size=(8, 8), mode="bilinear")


def search(model: nn.Module, images: Tensor | None, **arguments: object) -> SearchResult:
    return haste_compiler.search(model, images, threads=1, progress=False, patches=(4,), batch_size=8, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found(model: nn.Module, images: Tensor) -> SearchResult:
    with torch.no_grad():
        return search(model, images, max_output_error=0.1)


def test_the_budget_is_kept_and_used(found: SearchResult) -> None:
    assert 0 < found.chosen.output_error <= 0.1
    assert found.chosen.mac_reduction > 0
    assert found.config == found.chosen.config
    assert found.chosen in found.pareto


def test_what_it_says_is_what_compiling_its_configuration_gives(
    model: nn.Module, images: Tensor, found: SearchResult
) -> None:
    """Measured by the validator, which counts on its own, on the images that were held out."""
    assert found.images == 32
    compiled = haste_compiler.compile(model, (images[8:],), config=found.config, threads=1)
    report = haste_compiler.validate(model, compiled, images[8:], time=False)
    assert report.mac_reduction == pytest.approx(found.chosen.mac_reduction, abs=1e-6)
    assert report.outputs[0].rel_error == pytest.approx(found.chosen.output_error, rel=1e-3)
    assert report.agreement == found.chosen.agreement


def test_no_point_beats_another(found: SearchResult) -> None:
    for before, after in zip(found.pareto, found.pareto[1:], strict=False):
        assert after.mac_reduction > before.mac_reduction
        assert after.output_error > before.output_error or found.chosen in (before, after)


def test_same_arguments_same_configuration(model: nn.Module, images: Tensor, found: SearchResult) -> None:
    again = search(model, images, max_output_error=0.1)
    assert again.config == found.config
    assert again.pareto == found.pareto


def test_target_macs(model: nn.Module, images: Tensor, found: SearchResult) -> None:
    goal = found.chosen.mac_reduction / 2
    assert search(model, images, target_macs=goal).chosen.mac_reduction >= goal


def test_an_unreachable_target(model: nn.Module, images: Tensor) -> None:
    with pytest.raises(BudgetError, match=r"target_macs=0\.99 can't be reached; the nearest is 0") as caught:
        search(model, images, target_macs=0.99)
    assert caught.value.result.chosen.mac_reduction > 0


def test_latency(model: nn.Module, images: Tensor) -> None:
    """Nothing is given up for a limit that the dense network keeps; a limit that nothing keeps is an error."""
    assert search(model, images, target_latency=1e6).chosen.mac_reduction == 0
    with pytest.raises(BudgetError, match=r"target_latency=1e-06 can't be reached; the nearest is .* ms") as caught:
        search(model, images, target_latency=1e-6)
    assert all(point.latency is not None for point in caught.value.result.pareto)


def test_a_budget_spent_on_time(model: nn.Module, images: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    """The fastest of what was timed is chosen, and the dense network is always among it."""
    result = search(model, images, max_output_error=0.3, save="time")
    # Calls with one image would wait for the compiler and warn of it.
    assert not [message for message in caplog.messages if "compiling" in message]
    assert result.chosen.output_error <= 0.3
    latency = result.chosen.latency
    assert latency is not None
    assert all(point.latency is None or point.latency >= latency for point in result.pareto)
    with pytest.raises(InputError, match="save is 'space': allowed are 'macs' and 'time'"):
        search(model, images, max_output_error=0.1, save="space")
    with pytest.raises(InputError, match="target_macs asks for multiply-adds"):
        search(model, images, target_macs=0.1, save="time")


def test_integers_are_searched_too_where_time_is_saved(model: nn.Module, images: Tensor) -> None:
    """Layers become float32, integers or HASTE's; what is told is what compiling the configuration gives."""
    config = [HasteConfig(), QuantizedConfig(layers={"head": {"enabled": False}})]
    result = search(model, images, max_output_error=0.3, save="time", config=config)
    chosen = Configs.of(result.config)
    assert {each.METHOD for each in chosen.all} == {"haste", "quantized"}
    assert not chosen.all[1].for_layer("head").enabled
    compiled = haste_compiler.compile(model, (images[8:],), config=result.config, threads=1)
    report = haste_compiler.validate(model, compiled, images[8:], time=False)
    assert report.outputs[0].rel_error == pytest.approx(result.chosen.output_error, rel=1e-2, abs=1e-6)
    assert result.chosen.output_error <= 0.3
    with pytest.raises(InputError, match="config has int8, of which a search has nothing to try to save multiply-adds"):
        search(model, images, max_output_error=0.3, config=QuantizedConfig())


def test_all_layers_in_integers_where_they_are_faster(
    model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By times that say so: the layers' errors together keep the budget, and the algorithms differ in theirs."""
    profile = Clock.profile

    def taken(compiled: haste_compiler.CompiledModule) -> set[str]:
        return {layer.name for layer in compiled.layers if layer.method == "quantized"}

    def faster(clock: Clock, compiled: haste_compiler.CompiledModule) -> dict[str, float]:
        return {name: 1.0 if name in taken(compiled) else 2.0 for name in profile(clock, compiled)}

    monkeypatch.setattr(Clock, "profile", faster)
    monkeypatch.setattr(Clock, "latency", lambda clock, compiled: clock.dense * (1 - 0.1 * len(taken(compiled))))
    found = search(model, images, max_output_error=0.3, save="time", config=QuantizedConfig())
    layers = {name: found.config.for_layer(name) for name in ("stem", "first", "second", "head")}
    assert all(layer.enabled for layer in layers.values()) and 0 < found.chosen.output_error < 0.3
    tight = search(model, images, max_output_error=found.chosen.output_error, save="time", config=QuantizedConfig())
    assert 0 < tight.chosen.output_error < found.chosen.output_error


def test_without_images(model: nn.Module) -> None:
    result = search(model, None, input_shape=(3, 8, 8), max_output_error=0.1)
    assert 0 < result.chosen.output_error <= 0.1
    with pytest.raises(InputError, match="input_shape"):
        search(model, None, max_output_error=0.1)
    with pytest.raises(InputError, match="labels are given, but no inputs"):
        search(model, None, labels=torch.zeros(3, dtype=torch.int64), max_output_error=0.1)


def test_layers_that_stay_dense(model: nn.Module, images: Tensor, found: SearchResult) -> None:
    """What the user's configuration leaves out is left out; what it says of other layers is kept."""
    base = HasteConfig(layers={"first": {"enabled": False}}, seed=3)
    result = search(model, images, max_output_error=0.2, config=base)
    assert not result.config.for_layer("first").enabled
    assert result.config.for_layer("second").seed == 3


def test_prints_and_reads_back(found: SearchResult, tmp_path: Path) -> None:
    assert "chosen" in str(found)
    assert f"{100 * found.chosen.mac_reduction:.1f} %" in str(found)
    stored = json.loads(found.to_json())
    assert HasteConfig.from_dict(stored["config"]) == found.config
    assert stored["pareto"][stored["chosen"]]["mac_reduction"] == found.chosen.mac_reduction
    pytest.importorskip("matplotlib")
    found.plot(tmp_path / "pareto.svg")
    assert (tmp_path / "pareto.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "exactly one budget: none is given"),
        ({"target_macs": 0.3, "min_agreement": 0.9}, "min_agreement, target_macs are given"),
        ({"target_macs": 1.0}, "target_macs is 1.0: allowed are numbers between 0 and 1"),
        ({"max_accuracy_drop": "1"}, "max_accuracy_drop is '1'"),
        ({"min_agreement": float("nan")}, "min_agreement is nan"),
        ({"max_output_error": 0}, "max_output_error is 0: allowed are numbers above 0"),
        ({"target_macs": 0.3, "confidence": 1.0}, "confidence"),
    ],
)
def test_refused(model: nn.Module, images: Tensor, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        search(model, images, **arguments)


def test_a_method_without_anything_to_try(model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="config has no method"):
        search(model, images, max_output_error=0.1, config=[])
    monkeypatch.setattr(type(method("haste")), "ladder", lambda _: ())
    with pytest.raises(InputError, match="config has HASTE, of which a search has nothing to try"):
        search(model, images, max_output_error=0.1, config=HasteConfig())


def test_agreement_needs_class_scores(images: Tensor) -> None:
    with pytest.raises(InputError, match="min_agreement needs class scores"):
        search(nn.Sequential(nn.Conv2d(3, 16, 3)), images, min_agreement=0.9)


@pytest.mark.parametrize(("count", "held_out"), [(9, 7), (24, 18)])
def test_settings_are_judged_on_images_that_they_were_not_chosen_on(
    model: nn.Module, images: Tensor, count: int, held_out: int
) -> None:
    """Whatever the number: with fewer images than fill two calls all chose and judged."""
    result = haste_compiler.search(
        model, images[:count], max_output_error=0.3, threads=1, progress=False, patches=(4,), batch_size=64
    )
    compiled = haste_compiler.compile(model, (images[count - held_out : count],), config=result.config, threads=1)
    report = haste_compiler.validate(model, compiled, images[count - held_out : count], time=False)
    assert result.images == held_out and 0 < result.chosen.output_error < 0.3
    assert report.outputs[0].rel_error == pytest.approx(result.chosen.output_error, rel=1e-3)


@pytest.mark.parametrize("passing", [0, 1, 3])
def test_what_is_run_is_not_chosen_by_the_images_held_out(
    model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch, passing: int
) -> None:
    """Bisection gives each bad combination a new chance to pass: what is promised with 90 % holds less often."""
    sequences = []
    plain = Runner.run

    def search_where_pass(count: float) -> SearchResult:
        ran: list[Measured] = []

        def run(self: Runner, *arguments: Any) -> Measured:
            measured = plain(self, *arguments)
            bounds = (0.0, 0.0, 0.0) if len(ran) < count else (9.0, 1.0, 1.0)
            ran.append(measured._replace(quality=replace(measured.quality, bounds=bounds)))
            return ran[-1]

        monkeypatch.setattr(Runner, "run", run)
        result = search(model, images, max_output_error=0.1)
        sequences.append([each.point.config for each in ran])
        return result

    search_where_pass(math.inf)
    found = search_where_pass(passing)
    every, some = sequences
    assert len(every) > passing + 2 and some == every[: passing + 2]
    assert found.chosen.mac_reduction == 0 if passing == 0 else found.config == every[passing - 1]


def test_what_so_many_images_cannot_show_is_refused_before_the_work(
    images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    ran: list[object] = []
    model.register_forward_hook(lambda *_: ran.append(_))
    with pytest.raises(
        InputError, match=r"min_agreement=0\.98 can't be shown on 40 images: .* give 151 images or more"
    ):
        search(model, images, min_agreement=0.98)
    assert not ran


def test_one_class_for_all_images_is_warned_about(images: Tensor) -> None:
    head = nn.Linear(16, 3)
    nn.init.zeros_(head.weight)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
    result = search(model, images, max_output_error=0.1)
    assert "predicts class" in result.warnings[0]
    assert f"Warning: {result.warnings[0]}" in " ".join(str(result).split())
    assert json.loads(result.to_json())["warnings"] == list(result.warnings)


def test_a_network_with_nothing_to_merge(images: Tensor) -> None:
    result = search(nn.Sequential(nn.Conv2d(3, 16, 3)).eval(), images, max_output_error=0.1)
    assert result.chosen.mac_reduction == 0


@pytest.mark.slow
def test_the_carried_network() -> None:
    pytest.importorskip("sklearn")
    from haste_compiler.demo import training_digits

    result = search(load_network(), training_digits()[0][:24], max_accuracy_drop=0.2)
    assert result.chosen.mac_reduction > 0.1
    assert result.chosen.expected_drop is not None and result.chosen.expected_drop <= 0.2
