"""`torch.compile(model, backend="haste")`: outputs, gradients, sizes, weights, options."""

import logging
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._dynamo.exc import TensorifyScalarRestartAnalysis

from haste_compiler import ConfigError, HasteError, QuantizedConfig
from haste_compiler.dynamo import backend, op
from tests.dynamo.networks import DENSE, EXACT, Attention, Detector, GraphBreak, Residual, assert_close, compiled, made


@pytest.fixture
def plans(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the backend says about each graph."""
    caplog.set_level(logging.INFO, logger="haste_compiler.dynamo")
    return caplog


def test_it_is_there_without_an_import() -> None:
    found = "import torch, sys; assert 'haste' in torch._dynamo.list_backends(); print('haste_compiler' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", found], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("options", [DENSE, EXACT], ids=["dense", "exact"])
def test_a_whole_network_is_one_region(plans: pytest.LogCaptureFixture, options: dict[str, Any]) -> None:
    model, x = made(Residual), torch.randn(2, 3, 12, 12)
    assert_close(compiled(model, options)(x), model(x))
    assert "9 of 9 calls are ours, in 1 regions" in plans.text


def test_what_is_not_ours_goes_to_inductor(plans: pytest.LogCaptureFixture) -> None:
    model, x = made(Attention), torch.randn(2, 3, 11, 11)
    assert_close(compiled(model, DENSE)(x), model(x))
    assert "in 2 regions" in plans.text


class Tokens(nn.Module):
    """A small vision transformer, of one block."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.start = nn.Conv2d(3, 16, 4, stride=4), nn.Parameter(torch.randn(1, 1, 16))
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.start.expand(x.shape[0], -1, -1), tokens], 1)
        q, k, v = self.qkv(self.norm(tokens)).reshape(x.shape[0], -1, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v) + (q @ k.transpose(2, 3)).softmax(-1) @ v
        return (tokens + self.out(attended.transpose(1, 2).reshape(tokens.shape)))[:, 0]


def test_a_transformer_of_patches_is_ours(plans: pytest.LogCaptureFixture) -> None:
    model = made(Tokens)
    run = compiled(model, DENSE)
    for batch in (2, 3):
        x = torch.randn(batch, 3, 16, 16)
        assert_close(run(x), model(x))
    assert re.search(r"(\d+) of \1 calls are ours, in 1 regions", plans.text) and "eager mode" not in plans.text


def test_graph_breaks_and_branches(plans: pytest.LogCaptureFixture) -> None:
    model = made(GraphBreak)
    run = compiled(model, DENSE)
    for scale in (0.1, 10.0):
        x = scale * torch.randn(1, 3, 8, 8)
        assert_close(run(x), model(x))
    assert plans.text.count("in 1 regions") == 3


def test_branches_inside_of_a_graph() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.second(torch.cond(x.mean() > 0, lambda x: x.cos(), lambda x: -x, (x,)))

    model = made(Branches)
    run = compiled(model, DENSE, fullgraph=True)
    for shift in (-10.0, 10.0):
        x = torch.randn(1, 4, 8, 8) + shift
        assert_close(run(x), model(x))


def test_several_inputs_and_outputs() -> None:
    model, x = made(Detector), torch.randn(2, 3, 16, 16)
    assert_close(compiled(model, DENSE)(x, torch.tensor(2.0)), model(x, torch.tensor(2.0)))


def test_a_transposed_convolution_is_ours(plans: pytest.LogCaptureFixture) -> None:
    model, x = nn.Sequential(nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.ReLU()).eval(), torch.randn(2, 16, 9, 9)
    assert_close(compiled(model, DENSE)(x), model(x))
    assert "2 of 2 calls are ours, in 1 regions" in plans.text


def test_the_default_takes_the_faster_code_and_is_right(plans: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 32, 3, padding=1)).eval()
    x = torch.randn(1, 32, 28, 28)
    assert_close(compiled(model, {"enabled": False})(x), model(x))
    assert "at sizes of the graph" in plans.text


def test_small_regions_are_left_to_inductor(plans: pytest.LogCaptureFixture) -> None:
    model, x = made(Residual), torch.randn(1, 3, 8, 8)
    assert_close(compiled(model)(x), model(x))
    assert "no convolution in it is worth it" in plans.text


def test_batches_of_any_size_come_from_few_programs() -> None:
    model = made(Residual)
    run = compiled(model, DENSE)
    images = [torch.randn(batch, 3, 12, 12) for batch in (2, 3, 5, 7, 15, 11)]
    torch._dynamo.utils.counters.clear()
    for x in images:
        assert_close(run(x), model(x))
    # One graph for the first batch, one for all others.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    region = list(op._regions.values())[-1]
    (bound,) = region._bound.values()
    assert {shapes[0][0][0] for shapes in bound.programs} <= {1, 3, 4}


def test_image_sizes_of_one_graph() -> None:
    model = made(Residual)
    torch._dynamo.reset()
    run = torch.compile(model, backend="haste", options=DENSE, dynamic=True)
    for size in (12, 15, 20):
        x = torch.randn(2, 3, size, size + 1)
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert_close(run(x), model(x))


def test_an_operator_that_mixes_images_is_not_cut_into_batches() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.conv(y.flatten(0, 1).unsqueeze(0).transpose(0, 1).reshape(-1, 4, *y.shape[2:]) + 1)

    model = made(Mixing)
    run = compiled(model, DENSE, dynamic=True)
    for batch in (2, 5):
        x = torch.randn(batch, 4, 9, 9)
        assert_close(run(x), model(x))


def test_changed_weights_are_noticed() -> None:
    model, x = made(Residual), torch.randn(1, 3, 8, 8)
    run = compiled(model, DENSE)
    run(x)
    model.conv.weight.mul_(3)
    assert_close(run(x), model(x))
    model.norm.running_mean.add_(1)
    assert_close(run(x), model(x))
    model.fc.weight.data = torch.randn_like(model.fc.weight)
    assert_close(run(x), model(x))
    model.stem.weight = nn.Parameter(torch.randn_like(model.stem.weight))
    assert_close(run(x), model(x))


def test_networks_that_share_code_keep_their_own_weights() -> None:
    torch._dynamo.reset()
    first, second, x = made(Residual), made(Residual), torch.randn(1, 3, 8, 8)
    second.conv.weight.neg_()
    expected = first(x), second(x)
    first.compile(backend="haste", options=DENSE)
    second.compile(backend="haste", options=DENSE)
    for _ in range(2):
        assert_close((first(x), second(x)), expected)


def test_gradients_are_right_or_refused(plans: pytest.LogCaptureFixture) -> None:
    model, x = made(Residual), torch.randn(1, 3, 8, 8)
    run = compiled(model, DENSE)
    with torch.enable_grad():
        y = run(x.requires_grad_())
        found = torch.autograd.grad(y.sum(), [x, model.conv.weight])
        expected = torch.autograd.grad(model(x).sum(), [x, model.conv.weight])
    assert_close(found, expected)
    assert "computes no gradients" in plans.text
    assert_close(run(x.detach()), model(x.detach()))


def test_the_operator_itself_refuses_gradients() -> None:
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    run = compiled(made(Residual), DENSE)
    run(x.detach())
    handle = list(op._regions)[-1]
    with torch.enable_grad(), pytest.raises(HasteError, match="no gradient"):
        torch.ops.haste.region([x], [], [], handle)


def test_training_mode_stays_as_it_is() -> None:
    model, twin, x = made(Residual).train(), made(Residual).train(), torch.randn(4, 3, 8, 8)
    assert_close(compiled(model, DENSE)(x), twin(x))
    assert_close(model.norm.running_mean, twin.norm.running_mean)


def test_a_model_that_writes_to_its_input_still_does() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 8, 3)).eval()
    x = torch.randn(1, 4, 8, 8)
    given = x.clone()
    assert_close(compiled(model, DENSE)(given), model(x.clone()))
    assert torch.equal(given, x.relu())


def test_autocast_is_respected() -> None:
    model, x = made(Residual), torch.randn(1, 3, 8, 8)
    run = compiled(model, DENSE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert run(x).dtype == torch.bfloat16
    assert run(x).dtype == torch.float32


def test_inference_mode_and_memory_layouts() -> None:
    model, x = made(Detector), torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    run, scale = compiled(model, DENSE), torch.tensor(1.0)
    with torch.inference_mode():
        found, expected = run(x, scale), model(x, scale)
    assert_close(found, expected)
    for y, wanted in ((found["boxes"], expected["boxes"]), (found["features"][1], expected["features"][1])):
        assert y.stride(1) == wanted.stride(1) == 1


def test_options_are_fields_of_the_configuration() -> None:
    with pytest.raises(Exception, match="unknown field 'tolerence'; did you mean 'tolerance'"):
        compiled(made(Residual), {"tolerence": 0.1})(torch.randn(1, 3, 8, 8))


def test_layers_have_the_names_that_they_have_in_the_model() -> None:
    model, x = made(Residual), torch.randn(1, 3, 8, 8)
    compiled(model, {**DENSE, "layers": {"conv": {"enabled": True, "tolerance": 0.0}}})(x)
    region = list(op._regions.values())[-1]
    (bound,) = region._bound.values()
    (program,) = bound.programs.values()
    assert program is not None and [record.layers for record in program.records] == [("conv",)]


def test_numbers_that_dynamic_makes_symbols() -> None:
    model, x = made(Residual), torch.randn(2, 3, 8, 8)
    assert_close(compiled(model, DENSE, dynamic=True)(x), model(x))


def test_a_request_to_trace_once_more_reaches_torchdynamo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor makes it while it compiles, such as for a number that is to be an input: it is no defect."""

    def restart(*arguments: Any) -> Any:
        raise TensorifyScalarRestartAnalysis(restart_reason="test")

    monkeypatch.setattr(backend, "_compile", restart)
    with torch.no_grad(), pytest.raises(TensorifyScalarRestartAnalysis):
        backend.haste(fx.symbolic_trace(nn.ReLU()), [torch.ones(2)])


def test_filters_computed_from_parameters() -> None:
    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias, padding=1)

    model, x = Standardized(8, 8, 3).eval(), torch.randn(1, 8, 8, 8)
    assert_close(compiled(model, DENSE)(x), model(x))


def test_explain_finds_the_graphs() -> None:
    found = torch._dynamo.explain(made(GraphBreak))(torch.randn(1, 3, 8, 8))
    assert found.graph_count == 3 and found.graph_break_count == 2


@pytest.mark.parametrize("kind", [Residual, Attention])
def test_frozen_weights_of_inductor(kind: type[nn.Module], plans: pytest.LogCaptureFixture) -> None:
    model, x = made(kind), torch.randn(2, 3, 11, 11)
    with torch._inductor.config.patch(freezing=True), torch.inference_mode():
        assert_close(compiled(model, DENSE)(x), model(x))
    assert "calls are ours" in plans.text


def test_weights_without_a_version_are_left_to_inductor(plans: pytest.LogCaptureFixture) -> None:
    with torch.inference_mode():
        model, x = made(Residual), torch.randn(2, 3, 11, 11)
        assert_close(compiled(model, DENSE)(x), model(x))
        assert "calls are ours" not in plans.text


def test_what_cannot_be_compiled_runs_eagerly() -> None:
    model = made(Residual)
    run = compiled(model, DENSE, dynamic=True)
    run(torch.randn(2, 3, 8, 8))
    # An empty batch has nothing to compile.
    assert run(torch.randn(0, 3, 8, 8)).shape == (0, 5)


def test_options_are_of_the_first_method_that_has_them_all() -> None:
    found = backend._configs({"precision": "int8", "max_output_error": 0.01})
    assert found.all == (QuantizedConfig(max_output_error=0.01),)
    with pytest.raises(ConfigError, match="unknown field 'max_output_eror'"):
        backend._configs({"max_output_eror": 0.01})
