"""Compiled networks that cheat or are broken."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from haste_compiler.errors import ValidationError
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.macs import MacCount
from haste_compiler.validation import ValidationReport, validate
from tests.validation.standin import Fake, Function, SmallNet, StandIn


def quick(model: nn.Module, compiled: object, inputs: object, **arguments: object) -> ValidationReport:
    return validate(model, compiled, inputs, time=False, **arguments)  # type: ignore[arg-type]


@pytest.fixture
def model() -> nn.Module:
    return SmallNet().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 3, 8, 8)


def test_one_buffer_for_all_outputs(model: nn.Module, x: Tensor) -> None:
    buffer = torch.empty(4, 10)
    with pytest.raises(ValidationError, match=r"same memory at every call.*: output$"):
        quick(model, Fake(lambda x: buffer.copy_(model(x))), x)


def test_two_buffers_in_turns(model: nn.Module, x: Tensor) -> None:
    buffers = [torch.empty(4, 10), torch.empty(4, 10)]

    def call(x: Tensor) -> Tensor:
        buffers.reverse()
        return buffers[0].copy_(model(x))

    with pytest.raises(ValidationError, match="overwrote outputs"):
        quick(model, Fake(call), [x, x + 1, x + 2])


def test_a_stale_output_is_an_error(model: nn.Module, x: Tensor) -> None:
    first = model(x).clone()
    report = quick(model, Fake(lambda x: first.clone()), [x, x + 1])
    assert report.max_rel_error > 0.01


def test_a_model_that_returns_its_own_tensor() -> None:
    model = nn.Module()
    model.register_buffer("table", torch.randn(2, 3))
    model.forward = lambda x: (x * 2, model.table)  # type: ignore[method-assign, assignment]
    table = model.table
    assert quick(model, Fake(lambda x: (x * 2, table)), torch.randn(1, 2)).max_rel_error == 0


def test_inputs_written_by_the_compiled_network(model: nn.Module, x: Tensor) -> None:
    kept = x.clone()
    with pytest.raises(ValidationError, match="changed its inputs"):
        quick(model, Fake(lambda x: model(x.mul_(2))), x)
    assert torch.equal(x, kept)


def test_inputs_written_by_the_original(x: Tensor) -> None:
    kept = x.clone()
    report = quick(Function(lambda x: x.relu_() + 1), Fake(lambda x: x.relu() + 1), x)
    assert report.max_rel_error == 0 and "the original changes its inputs" in report.warnings[0]
    assert torch.equal(x, kept)


def test_weights_written_by_the_compiled_network(model: nn.Module, x: Tensor) -> None:
    def call(x: Tensor) -> Tensor:
        y = model(x)
        model.head.weight.data.mul_(1.0001)  # type: ignore[union-attr, operator]
        return y

    with pytest.raises(ValidationError, match=r"tensors were changed.*: head\.weight$"):
        quick(model, Fake(call), x)


def test_outputs_that_change_from_call_to_call_are_reported(model: nn.Module, x: Tensor) -> None:
    report = quick(model, Fake(lambda x: model(x) + 1e-6 * torch.rand(())), x)
    assert any("two calls of the compiled network on the same input differ" in w for w in report.warnings)


@pytest.mark.parametrize(
    ("original", "compiled", "said"),
    [
        (lambda x: (x,), lambda x: x, r"structure differs: .*\('float32\(4, 3, 8, 8\)',\).*float32\(4, 3, 8, 8\)$"),
        (lambda x: (x, x), lambda x: [x, x], "structure differs"),
        (lambda x: {"a": x}, lambda x: {"b": x}, "structure differs"),
        (lambda x: {"a": x}, lambda x: {"a": x[:2]}, r"output\['a'\] differs: .*\(4, 3, 8, 8\).*\(2, 3, 8, 8\)"),
        (lambda x: x, lambda x: x.double(), "output differs: .*float32.*float64"),
        (lambda x: x, lambda x: 3, "output differs"),
        (lambda x: (x, 3), lambda x: (x, 4), r"output\[1\] differs: the original returns 3, the compiled network 4"),
        (lambda x: x, lambda x: x[:, :1], "output differs"),
    ],
)
def test_another_kind_of_output(x: Tensor, original: Any, compiled: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        quick(Function(original), Fake(compiled), x)


def test_a_dense_compile_of_another_shape(model: nn.Module, x: Tensor) -> None:
    class Wrong(StandIn):
        @property
        def dense(self) -> Any:
            return Fake(lambda x: model(x)[:1])

    with pytest.raises(ValidationError, match="output differs"):
        validate(model, Wrong(model), x, rounds=1)


def test_a_wrong_dense_compile_is_no_yardstick(model: nn.Module, x: Tensor) -> None:
    class Wrong(StandIn):
        @property
        def dense(self) -> Any:
            return Fake(lambda x: torch.zeros(4, 10))

    report = validate(model, Wrong(model), x, rounds=1)
    assert any("its time is no yardstick" in warning for warning in report.warnings)


class Lying(StandIn):
    """Statistics that are too good."""

    def __init__(self, model: nn.Module, **fields: Any) -> None:
        super().__init__(model)
        self.fields = fields

    def stats(self, *inputs: Any) -> dict[str, Any]:
        return {name: dataclasses.replace(stats, **self.fields) for name, stats in super().stats(*inputs).items()}


def test_dense_multiply_adds_are_not_taken_on_trust(model: nn.Module, x: Tensor) -> None:
    lying = Lying(model, macs=MacCount(dense=10**12))
    with pytest.raises(
        ValidationError, match=r"block\.1: the compiled network counts 1000000000000 dense .*, the model"
    ):
        quick(model, lying, x)


def test_channels_must_be_accounted_for(model: nn.Module, x: Tensor) -> None:
    lying = Lying(model, counts=torch.ones(4, 1, 1, 1, 6).numpy().astype(int))
    with pytest.raises(ValidationError, match=r"block\.1: .* accounts for 16 channels of patches, of 64"):
        quick(model, lying, x)


def test_statistics_of_another_network(model: nn.Module, x: Tensor) -> None:
    class Other(StandIn):
        def stats(self, *inputs: Any) -> dict[str, Any]:
            return {f"other.{name}": stats for name, stats in super().stats(*inputs).items()}

    with pytest.raises(ValidationError, match=r"layers that the model has not: other\.block\.1, other\.strided"):
        quick(model, Other(model), x)


def test_a_bound_that_is_nan_stays_nan(model: nn.Module, x: Tensor) -> None:
    lying = Lying(model, bound=torch.full((4, 1, 1, 1), torch.nan).numpy())
    bounds = [layer.error_bound for layer in quick(model, lying, [x, x]).layers if layer.error_bound is not None]
    assert len(bounds) == 2 and all(bound != bound for bound in bounds)


def test_constant_predictions_are_pointed_out(x: Tensor) -> None:
    always = torch.tensor([0.0, 2.0, 1.0])
    model = Function(lambda x: always + 0 * x.mean(dim=(1, 2, 3)).unsqueeze(1))
    report = quick(model, Fake(model.function), x)
    assert report.agreement == 1
    assert any("predicts class 1 for all 4 images" in warning for warning in report.warnings)
    zeros = Function(lambda x: 0 * x.mean(dim=(2, 3)))
    assert any("scores are all equal" in warning for warning in quick(zeros, Fake(zeros.function), x).warnings)
    assert any("rests on one image" in warning for warning in quick(model, Fake(model.function), x[:1]).warnings)


def test_no_such_warning_for_varied_predictions(x: Tensor) -> None:
    model = Function(lambda x: x.mean(dim=(2, 3)) + torch.eye(4, 3))
    assert quick(model, Fake(model.function), x).warnings == ()


def test_config_without_haste_layers_has_nothing_merged(model: nn.Module, x: Tensor) -> None:
    report = quick(model, StandIn(model, HasteConfig(min_reads=0, min_channels=99)), x)
    assert report.mac_reduction == 0 and not [layer for layer in report.layers if layer.kind == "haste"]
