"""A method is one folder and one name in a tuple: Toy, in ``tests.methods.toy``, has all that HASTE has."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

import haste_compiler
from haste_compiler import ConfigError, HasteConfig
from haste_compiler.methods import registry
from haste_compiler.methods.configs import Configs
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.testing import EquivalenceError, assert_equivalent, check_layers
from tests.methods.toy import cpu
from tests.methods.toy.config import ToyConfig
from tests.methods.toy.operator import ROUND
from tests.without_torch import NO_TORCH

NAMES = ("haste", "tests.methods.toy")
LAYERS = ("first", "second", "third")
"""The convolutions, each of which reads 16 channels."""


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu() + x
        return self.head(self.third(x).relu().mean((2, 3)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 16, 10, 12, generator=torch.Generator().manual_seed(0))


def rounded(model: nn.Module, x: Tensor, **steps: float) -> Tensor:
    """What a model returns if its layers read rounded values."""

    def hook(step: float) -> Callable[..., Any]:
        return lambda module, inputs: (ROUND(inputs[0], torch.tensor([step])),)

    hooks = [model.get_submodule(name).register_forward_pre_hook(hook(step)) for name, step in steps.items()]
    try:
        return model(x)
    finally:
        for each in hooks:
            each.remove()


@pytest.fixture(autouse=True, scope="module")
def _toy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "NAMES", NAMES)
        yield


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return network()


@pytest.fixture(scope="module")
def made(model: nn.Module) -> CompiledModule:
    return haste_compiler.compile(model, (images(),), config=ToyConfig(), threads=1)


@pytest.fixture
def compiled(made: CompiledModule) -> Iterator[CompiledModule]:
    """The compiled network, of which a test may steer the steps."""
    yield made
    made.step = ToyConfig().step


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, atol=1e-5)


def test_it_computes_what_the_operators_say(model: nn.Module, compiled: CompiledModule) -> None:
    x = images()
    assert close(compiled(x), rounded(model, x, **dict.fromkeys(LAYERS, 0.25)))
    assert not close(compiled(x), model(x))
    torch.library.opcheck(ROUND, (x, torch.tensor([0.25])))
    assert [layer.method for layer in compiled.layers] == ["toy"] * 3 and "rewrite_toy" in compiled.graphs
    assert str(compiled.explain()).startswith("3 of 3 convolutions Toy")
    assert not compiled.dense.stats(x) and close(compiled.dense(x), model(x))


def test_it_takes_part_only_where_it_is_configured(model: nn.Module) -> None:
    assert not haste_compiler.compile(model).configs.of_method("toy")
    with pytest.raises(ConfigError, match="allowed is a HasteConfig or a ToyConfig, or a list of such"):
        haste_compiler.compile(model, config="toy")  # type: ignore[arg-type]


def test_a_method_that_is_not_listed(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "NAMES", NAMES[:1])
    with pytest.raises(ConfigError, match="config is ToyConfig: allowed is a HasteConfig, or a list of such"):
        haste_compiler.compile(model, config=[HasteConfig(), ToyConfig()])


def test_layers_that_are_left_out(model: nn.Module) -> None:
    x, config = images(), ToyConfig(layers={"first": {"enabled": False}, "third": {"step": 1.0}})
    compiled = haste_compiler.compile(model, (x,), config=config, threads=1)
    assert close(compiled(x), rounded(model, x, second=0.25, third=1.0))
    assert compiled.step == {"second": 0.25, "third": 1.0}
    with pytest.raises(ConfigError, match=r"step: 'first' is a dense convolution, .*: disabled by the configuration"):
        compiled.step = {"first": 0.5}


def test_it_is_steered(model: nn.Module, compiled: CompiledModule) -> None:
    x = images()
    assert compiled.step == 0.25
    compiled.step = 0.5
    assert compiled.step == 0.5 and close(compiled(x), rounded(model, x, **dict.fromkeys(LAYERS, 0.5)))
    compiled.step = {"*": 0, "*ir*": 1.0}
    assert compiled.step == {"first": 1.0, "second": 0.0, "third": 1.0}
    assert close(compiled(x), rounded(model, x, first=1.0, third=1.0))
    compiled.step = 0
    assert close(compiled(x), model(x))
    with pytest.raises(ConfigError, match="step: 'thrid' matches none of the 3 Toy layers; did you mean 'third'"):
        compiled.step = {"thrid": 0.5}
    with pytest.raises(ConfigError, match="step must be finite and at least 0"):
        compiled.step = -1
    assert compiled.step == 0


def test_it_is_counted(model: nn.Module, compiled: CompiledModule) -> None:
    x, compiled.step = images(), 0.5
    stats = compiled.stats(x)
    zeros = (ROUND(x, torch.tensor([0.5])) == 0).flatten(1).sum(1)
    assert list(stats) == list(LAYERS) and stats["first"].zeros.tolist() == zeros.tolist()
    report = haste_compiler.validate(model, compiled, x, time=False)
    assert [layer.kind for layer in report.layers] == ["toy", "toy", "toy", "linear"]
    dense, values = 2 * 120 * 16 * 16 * 9, x.numel()
    macs = report.layers[0].macs
    assert (macs.dense, macs.rounding) == (dense, values)
    assert macs.convolution == dense * (values - int(zeros.sum())) // values
    tally = report.layers[0].channels
    assert tally is not None and (tally.of, tally.skipped, tally.total) == ("values", int(zeros.sum()), values)
    assert report.layers[0].error_bound is None and report.layers[0].reason == "its input is rounded"
    assert 0 < report.mac_reduction < 1 and "rounding" in str(report)


def test_it_is_saved_and_loaded(model: nn.Module, compiled: CompiledModule, tmp_path: Path) -> None:
    x, compiled.step = images(), {"second": 1.0}
    file = tmp_path / "small.haste"
    compiled.save(file)
    loaded = haste_compiler.load(file)
    assert torch.equal(loaded(x), compiled(x)) and loaded.config == ToyConfig()
    assert loaded.step == {"first": 0.25, "second": 1.0, "third": 0.25}
    assert str(loaded.explain()) == str(compiled.explain())
    assert {name: layer.macs for name, layer in loaded.stats(x).items()} == {
        name: layer.macs for name, layer in compiled.stats(x).items()
    }
    assert check_layers(model, loaded, (x,)) == check_layers(model, compiled, (x,))
    loaded.step = 0
    assert close(loaded(x), model(x)) and not close(compiled(x), model(x))


WITHOUT_TORCH = f"""{NO_TORCH}
import numpy as np
import haste_compiler
from haste_compiler.methods import registry

registry.NAMES = {NAMES}
network = haste_compiler.load(sys.argv[1])
data = np.load(sys.argv[2])
assert np.array_equal(network(data["x"]), data["y"]), "other bits"
network.step = 1.0
print(network.explain(), sum(layer.macs.rounding for layer in network.stats(data["x"]).values()))
"""


def test_it_runs_without_pytorch(compiled: CompiledModule, tmp_path: Path) -> None:
    x = images()
    compiled.save(tmp_path / "small.haste")
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=compiled(x).numpy())
    command = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "small.haste"), str(tmp_path / "data.npz")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 convolutions Toy" in done.stdout and done.stdout.split()[-1] == str(3 * x.numel())


def test_a_batch_of_any_size(model: nn.Module) -> None:
    compiled = haste_compiler.compile(model, (images(2),), config=ToyConfig(), threads=1, dynamic=True)
    for count in (1, 3):
        x = images(count)
        assert close(compiled(x), rounded(model, x, **dict.fromkeys(LAYERS, 0.25)))
        assert compiled.stats(x)["third"].images == count
        assert haste_compiler.validate(model, compiled, x, time=False).macs.rounding == 3 * x.numel()


def test_it_is_checked(model: nn.Module, compiled: CompiledModule) -> None:
    x, compiled.step = images(), {"*": 0.125, "third": 0.5}
    report = assert_equivalent(model, compiled, x)
    assert isinstance(report, haste_compiler.ValidationReport) and 0 < report.max_rel_error < 0.5
    with pytest.raises(EquivalenceError) as caught:
        assert_equivalent(model, compiled, x, max_rel_error=1e-3)
    message = str(caught.value)
    assert caught.value.layer is None and "layers compute what their settings say; Toy changed" in message
    assert "\n  third: " in message and "a smaller step in these layers bring the outputs nearer" in message


def test_a_broken_kernel_is_found(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(value: Any, step: Any, lanes: int) -> Any:
        return right(value, step, lanes) + right(value, step, lanes)

    right = cpu.nearest
    monkeypatch.setattr(cpu, "nearest", wrong)
    config = ToyConfig(layers={"first": {"enabled": False}, "third": {"enabled": False}})
    compiled = haste_compiler.compile(model, (images(),), config=config, threads=1, cache=False)
    with pytest.raises(EquivalenceError, match=r"second \(toy, kernel toy_round_\d+ and conv2d_\d+\): ") as caught:
        assert_equivalent(model, compiled, images())
    assert caught.value.layer == "second" and caught.value.broken_pass is None
    assert [check.name for check in caught.value.layers if check.wrong] == ["second"]


def test_it_is_searched(model: nn.Module) -> None:
    result = haste_compiler.search(
        model, images(16), max_output_error=0.1, config=ToyConfig(), threads=1, batch_size=4, progress=False
    )
    assert isinstance(result.config, ToyConfig) and 0 < result.chosen.output_error <= 0.1
    assert result.chosen.mac_reduction > 0
    found = [result.config.for_layer(name) for name in LAYERS]
    assert {config.step for config in found if config.enabled} <= {0.0625, 0.25, 1.0} and any(c.enabled for c in found)
    compiled = haste_compiler.compile(model, (images(),), config=result.config, threads=1)
    report = haste_compiler.validate(model, compiled, list(images(16).split(2)), time=False)
    assert report.mac_reduction == pytest.approx(result.chosen.mac_reduction, rel=0.1)


def test_together_with_haste(model: nn.Module, tmp_path: Path) -> None:
    x = images()
    haste = HasteConfig(cost_model=False, layers={"second": {"enabled": False}})
    compiled = haste_compiler.compile(model, (x,), config=[ToyConfig(), haste], threads=1)
    assert compiled.config == (haste, ToyConfig())
    assert {layer.name: layer.method for layer in compiled.layers} == {
        "first": "haste",
        "second": "toy",
        "third": "haste",
    }
    assert str(compiled.explain()).startswith("2 of 3 convolutions HASTE, 1 of 3 convolutions Toy")
    assert compiled.step == 0.25 and compiled.tolerance == haste.tolerance
    assert_equivalent(model, compiled, x)
    compiled.tolerance, compiled.flat_tolerance, compiled.step = 0.0, 0.0, 1.0
    assert close(compiled(x), rounded(model, x, second=1.0))
    with pytest.raises(ConfigError, match="step: 'first' matches none of the 1 Toy layers"):
        compiled.step = {"first": 0.5}
    with pytest.raises(ConfigError, match="tolerance: 'second' matches none of the 2 HASTE layers"):
        compiled.tolerance = {"second": 0.5}
    report = haste_compiler.validate(model, compiled, x, time=False)
    assert [layer.kind for layer in report.layers] == ["haste", "toy", "haste", "linear"]
    compiled.save(tmp_path / "both.haste")
    loaded = haste_compiler.load(tmp_path / "both.haste")
    assert torch.equal(loaded(x), compiled(x)) and loaded.config == compiled.config and loaded.step == 1.0


def test_a_layer_that_another_method_left_is_taken_as_its_own(model: nn.Module) -> None:
    # HASTE predicts that it doesn't pay on layers as small as these; Toy predicts nothing.
    compiled = haste_compiler.compile(model, (images(),), config=[HasteConfig(), ToyConfig()], threads=1)
    assert list(compiled.stats(images())) == list(LAYERS) and compiled.step == 0.25
    assert {layer.name: layer.method for layer in compiled.layers} == dict.fromkeys(LAYERS, "toy")
    assert [layer.reason for layer in compiled.layers] == ["its input is rounded"] * 3
    assert_equivalent(model, compiled, images())


def test_a_machine_that_it_has_no_kernels_for(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match="config is ToyConfig: sm_80 has no kernels for it"):
        haste_compiler.compile(model, (images(),), target="cuda -arch=sm_80", config=ToyConfig())


def test_torch_compile_takes_it(model: nn.Module) -> None:
    torch._dynamo.reset()
    options: dict[str, Any] = {"config": ToyConfig(cost_model=False)}
    run, x = torch.compile(model, backend="haste", options=options), images()
    assert close(run(x), rounded(model, x, **dict.fromkeys(LAYERS, 0.25)))


@pytest.fixture
def haste(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """``haste ARGUMENTS``; commands get their options when they are imported, so they are imported anew."""
    monkeypatch.setattr(haste_compiler, "cli", None, raising=False)

    def forget() -> dict[str, Any]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("haste_compiler.cli")}

    before = forget()
    command = importlib.import_module("haste_compiler.cli.commands").haste
    yield lambda *arguments: CliRunner().invoke(command, [str(argument) for argument in arguments])
    forget()
    sys.modules.update(before)


SMALL = ("tests.methods.test_toy:network", "--input", "2x16x10x12", "--threads", "1")


def test_the_command_line_has_it(haste: Callable[..., Result], model: nn.Module, tmp_path: Path) -> None:
    assert "Rounds what convolutions read." in haste("--help").output
    text = haste("compile", "--help").output
    assert "--step FLOAT" in text and "[default preset: 0.25]" in text and "coarse: round to whole numbers" in text
    file = tmp_path / "small.haste"
    done = haste("compile", *SMALL, "--step", "0.5", "-o", file)
    assert done.exit_code == 0 and "3 of 3 convolutions Toy" in done.stdout, done.output
    loaded = haste_compiler.load(file)
    assert loaded.config == ToyConfig(step=0.5)
    assert close(loaded(images()), rounded(model, images(), **dict.fromkeys(LAYERS, 0.5)))
    done = haste("info", file)
    assert done.exit_code == 0 and "3 of 3 convolutions Toy" in done.stdout and "step=0.5" in done.stdout
    done = haste("validate", *SMALL, "--images", "random", "--limit", "4", "--preset", "coarse", "--no-time", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["layers"][0]["kind"] == "toy"
    assert "no one method takes all of --tolerance, --step" in str(
        haste("compile", *SMALL, "--step", "0.5", "--tolerance", "0.2", "-o", file).output
    )


def test_the_command_line_reads_its_configuration(haste: Callable[..., Result], tmp_path: Path) -> None:
    config = ToyConfig(layers={"first": {"step": 1.0}})
    config.save(tmp_path / "toy.json")
    done = haste("info", *SMALL, "--config", tmp_path / "toy.json", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["config"] == config.to_dict(), done.output


def test_configurations_are_kept_by_method() -> None:
    configs = Configs.of([ToyConfig(step=1.0), HasteConfig()])
    assert Configs.from_dict(json.loads(json.dumps(configs.to_dict()))) == configs
