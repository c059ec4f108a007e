"""``assert_equivalent``: silent where networks agree, and where not, it says where they part."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import haste_compiler
from haste_compiler import HasteConfig, InputError, ValidationReport
from haste_compiler.demo import load_network
from haste_compiler.passes import pipeline
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.testing import EquivalenceError, assert_equivalent
from tests.methods.haste.networks import redundant_images
from tests.testing.faults import alter, constants_of, unharmed

IMAGES = redundant_images(2, 1, 32, 32, seed=0)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return load_network().eval()


@pytest.fixture(scope="module")
def network(model: nn.Module) -> CompiledModule:
    return haste_compiler.compile(model, (IMAGES,), config=HasteConfig(cost_model=False))


@pytest.fixture
def compiled(network: CompiledModule) -> Iterator[CompiledModule]:
    with unharmed(network) as compiled:
        yield compiled


def message(model: nn.Module, compiled: Any, inputs: Any = IMAGES, **limits: Any) -> tuple[str, EquivalenceError]:
    with pytest.raises(EquivalenceError) as caught:
        assert_equivalent(model, compiled, inputs, **limits)
    return str(caught.value), caught.value


# Our own


def test_it_holds(model: nn.Module, compiled: CompiledModule) -> None:
    labels = model(IMAGES).argmax(dim=1)
    report = assert_equivalent(model, compiled, [IMAGES], labels=labels, max_rel_error=0.5, min_mac_reduction=-1)
    assert isinstance(report, ValidationReport) and report.accuracy is not None and report.accuracy.original == 1
    report = assert_equivalent(model, compiled, [(IMAGES, labels)], labels=True)
    assert isinstance(report, ValidationReport) and 0 < report.max_rel_error < 0.5


def test_a_wrong_layer_is_named_though_the_limits_hold(model: nn.Module, compiled: CompiledModule) -> None:
    alter(constants_of(compiled, IMAGES, "blocks.2.conv1", "haste_convolve")[0])
    text, error = message(model, compiled, max_rel_error=0.9)
    assert error.layer == "blocks.2.conv1" and error.report is not None and error.broken_pass is None
    assert text.startswith("the compiled DigitsResNet differs from the model\n")
    assert "first layer whose code computes something else than the operator on the same input: blocks.2.conv1" in text
    assert "the other 9 of 10 layers are right" in text
    assert assert_equivalent(model, compiled, IMAGES, max_rel_error=0.9, check=False)


def test_the_first_of_two_wrong_layers_is_named(model: nn.Module, compiled: CompiledModule) -> None:
    for layer in ("blocks.2.conv2", "blocks.0.conv2"):
        alter(constants_of(compiled, IMAGES, layer, "haste_convolve")[0])
    text, error = message(model, compiled)
    assert error.layer == "blocks.0.conv2" and "  also: blocks.2.conv2" in text


def test_a_missed_limit_without_a_fault_says_where_merging_shows(model: nn.Module, compiled: CompiledModule) -> None:
    text, error = message(model, compiled, max_rel_error=1e-9)
    assert error.layer is None and error.report is not None
    assert text.splitlines()[0].startswith("the compiled DigitsResNet differs from the model: max_rel_error is")
    assert "all 10 layers compute what their settings say" in text
    most = max(error.layers, key=lambda check: check.merging or 0)
    assert text.splitlines()[2].startswith(f"  {most.name}: {100 * (most.merging or 0):.1f} %")


def test_a_broken_pass_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def swap_activation(gm: fx.GraphModule, *rest: Any) -> fx.GraphModule:
        node = next(node for node in gm.graph.nodes if node.meta.get("layer") == "1" and node.args[-1] == "relu")
        node.args = (*node.args[:-1], "none")
        return gm

    passes = (*pipeline.PASSES, pipeline.Pass("drop_activation", swap_activation))
    monkeypatch.setattr(pipeline, "PASSES", passes)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    compiled = haste_compiler.compile(model, (IMAGES,), config=HasteConfig(cost_model=False))
    text, error = message(model, compiled)
    assert error.layer == "1" and error.broken_pass is not None
    assert "the graph was broken before any code was made: pass drop_activation breaks 1" in text


# Others'


class Wrapped:
    """A foreign network: a function that is all that is known of it."""

    def __init__(self, model: nn.Module, change: Any = lambda y: y) -> None:
        self.model, self.change = model, change

    def __call__(self, x: Tensor) -> Any:
        return self.change(self.model(x))


def test_another_compilers_network(model: nn.Module) -> None:
    (output,) = assert_equivalent(model, Wrapped(model), [IMAGES, IMAGES[:1]])  # type: ignore[misc]
    assert output.rel_error == 0 and output.agreement == 1
    assert_equivalent(model, Wrapped(model, lambda y: [y.numpy()]), IMAGES)
    assert_equivalent(model, torch.compile(model, backend="eager"), IMAGES)


def test_which_elements_differ(model: nn.Module) -> None:
    def change(y: Tensor) -> Tensor:
        y = y.clone()
        y[1:2, 7] += 2
        return y

    text, error = message(model, Wrapped(model, change), [IMAGES[:1], IMAGES])
    assert "Wrapped differs from DigitsResNet: max_rel_error is" in text and error.layer is None
    assert "output, in the worst batch: 1 of 20 elements differ, all in row 1 and column 7; most at [1, 7]" in text
    assert "its graph isn't known here" in text
    assert_equivalent(model, Wrapped(model, change), IMAGES, max_rel_error=0.9)
    text, _ = message(model, Wrapped(model, lambda y: y.roll(1, 1)), IMAGES, min_agreement=0.9)
    assert "agreement is" in text and "max_rel_error" not in text


def test_outputs_of_another_kind(model: nn.Module) -> None:
    with pytest.raises(EquivalenceError, match=r"Wrapped returns .*the model float32\(2, 10\)"):
        assert_equivalent(model, Wrapped(model, lambda y: (y, y)), IMAGES)
    with pytest.raises(haste_compiler.ValidationError, match=r"output differs: .*float32\(2, 10\).*float64\(2, 10\)"):
        assert_equivalent(model, Wrapped(model, lambda y: y.double()), IMAGES)
    with pytest.raises(InputError, match="min_speedup are for networks of this package"):
        assert_equivalent(model, Wrapped(model), IMAGES, min_speedup=1.0)
    with pytest.raises(InputError, match="compiled is int"):
        assert_equivalent(model, 3, IMAGES)  # type: ignore[arg-type]


def test_another_module_names_the_submodule(model: nn.Module) -> None:
    other = copy.deepcopy(model)
    other.get_submodule("blocks.1.conv1").weight.data[3] *= 2  # type: ignore[union-attr,operator,index]
    text, error = message(model, other)
    assert error.layer == "blocks.1.conv1"
    assert "first submodule whose outputs part: blocks.1.conv1: " in text and "all in channel 3;" in text


def test_an_onnx_session(model: nn.Module, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = str(tmp_path / "net.onnx")
    torch.onnx.export(model, (IMAGES,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = assert_equivalent(model, session, IMAGES)  # type: ignore[misc]
    assert output.agreement == 1
    text, _ = message(copy.deepcopy(model).apply(_shift), session)
    assert text.startswith("InferenceSession differs from DigitsResNet")


def _shift(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        module.bias.data += 1
