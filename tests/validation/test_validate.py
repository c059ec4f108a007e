import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from haste_compiler.errors import InputError, ValidationError
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.macs import MacCount
from haste_compiler.validation import ThresholdError, ValidationReport, dense_macs, validate
from tests.validation.standin import ALL_LAYERS, MERGED, Fake, Function, SmallNet, StandIn, Timed


@pytest.fixture
def model() -> nn.Module:
    return SmallNet().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 3, 16, 16)


def quick(model: nn.Module, compiled: object, inputs: object, **arguments: object) -> ValidationReport:
    return validate(model, compiled, inputs, time=False, **arguments)  # type: ignore[arg-type]


def test_dense_network_matches_itself(model: nn.Module, x: Tensor) -> None:
    report = quick(model, StandIn(model, HasteConfig(enabled=False)), x)
    assert report.max_rel_error == 0 and report.agreement == 1 and report.mac_reduction == 0
    assert report.speedup is None and report.times is None and report.accuracy is None
    assert (report.batches, report.images) == (1, 3)
    assert [layer.name for layer in report.layers] == ALL_LAYERS
    assert [layer.kind for layer in report.layers] == ["conv", "conv", "conv", "linear"]
    assert all(layer.channels is None and layer.error_bound is None for layer in report.layers)
    assert report.macs.spent == report.macs.dense == dense_macs(model, (x,))


def test_merging_network(model: nn.Module, x: Tensor) -> None:
    compiled = StandIn(model, HasteConfig(min_reads=0, patch_size=8, num_hyperplanes=3))
    report = quick(model, compiled, x)
    stats = compiled.stats(x)
    expected, found = model(x).double(), compiled(x).double()
    assert report.max_rel_error == pytest.approx(float((expected - found).norm() / expected.norm()))
    assert report.outputs[0].max_abs_error == pytest.approx(float((expected - found).abs().max()))
    assert report.outputs[0].name == "output" and report.outputs[0].kind == "float32(3, 10)"
    merged = {layer.name: layer for layer in report.layers if layer.kind == "haste"}
    assert list(merged) == MERGED
    for name, layer in merged.items():
        assert layer.macs == stats[name].macs and layer.reason == "wide enough"
        assert layer.channels is not None and layer.error_bound is not None
        singles, groups, members, zeros, flats, _ = stats[name].counts.reshape(-1, 6).sum(axis=0)
        assert layer.channels.kept == singles + groups
        assert layer.channels.merged == members - groups
        assert layer.channels.skipped == zeros + flats
        assert layer.channels.total == stats[name].counts[..., [0, 2, 3, 4]].sum()
    assert report.macs == sum((layer.macs for layer in report.layers), MacCount())
    assert report.macs.dense == dense_macs(model, (x,))
    assert report.mac_reduction == 1 - report.macs.spent / report.macs.dense != 0


def test_error_bound_holds_for_the_worst_image(x: Tensor) -> None:
    torch.manual_seed(1)
    conv = nn.Conv2d(3, 4, 3, padding=1).eval()
    config = HasteConfig(min_reads=0, num_hyperplanes=1, tolerance=None, min_channels=2, patch_size=5)
    report = quick(nn.Sequential(conv), StandIn(nn.Sequential(conv), config), x)
    swapped = StandIn(nn.Sequential(conv), config)
    errors = (conv(x) - swapped(x)).flatten(1).norm(dim=1)
    bound = report.layers[0].error_bound
    assert bound is not None and float(errors.max()) > 0
    assert float(errors.max()) <= bound <= 100 * float(errors.max())


def test_batches_add_up(model: nn.Module) -> None:
    images = torch.randn(7, 3, 16, 16)
    compiled = StandIn(model)
    whole = quick(model, compiled, images)
    parts = quick(model, compiled, list(images.split(3)))
    again = quick(model, compiled, (batch for batch in images.split(3)))
    assert (parts.batches, parts.images, whole.images) == (3, 7, 7)
    assert parts.outputs[0].rel_error == pytest.approx(whole.outputs[0].rel_error, rel=1e-4)
    assert parts.max_rel_error >= parts.outputs[0].rel_error
    assert parts.macs.dense == whole.macs.dense and parts.macs.convolution == whole.macs.convolution
    assert [layer.channels for layer in parts.layers] == [layer.channels for layer in whole.layers]
    assert again == parts


def test_one_bad_batch_is_not_averaged_away(model: nn.Module) -> None:
    good, bad = torch.zeros(50, 3, 8, 8) + 1, torch.zeros(1, 3, 8, 8) - 1

    compiled = Fake(lambda x: model(x) * (1.5 if float(x.mean()) < 0 else 1.0))
    report = quick(model, compiled, [good, bad])
    assert report.max_rel_error == pytest.approx(0.5) and report.outputs[0].rel_error < 0.2


def test_labels(model: nn.Module) -> None:
    images = torch.randn(6, 3, 8, 8)
    right = model(images).argmax(1)
    labels = right.clone()
    labels[:2] = (labels[:2] + 1) % 10
    shifted = Fake(lambda x: model(x).roll(1, dims=1))
    report = quick(model, shifted, images, labels=labels)
    assert report.accuracy is not None
    assert report.accuracy.original == pytest.approx(4 / 6) and report.accuracy.images == 6
    assert report.accuracy.compiled == pytest.approx(
        float((model(images).roll(1, dims=1).argmax(1) == labels).float().mean())
    )
    assert report.agreement == 0
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    assert quick(model, shifted, loader, labels=True).accuracy == report.accuracy
    assert quick(model, shifted, list(images.split(4)), labels=labels).accuracy == report.accuracy


@pytest.mark.parametrize(
    ("inputs", "arguments", "said"),
    [
        ([], {}, "no images"),
        (iter(()), {}, "no images"),
        ((), {}, "holds no tensor"),
        (torch.zeros(0, 3, 8, 8), {}, "no images"),
        (3, {}, "not int"),
        ("images", {}, "not str"),
        (["images"], {}, "not str"),
        ([torch.zeros(1, 3, 8, 8)], {"labels": True}, "has no labels"),
        (torch.zeros(2, 3, 8, 8), {"labels": torch.zeros(3, dtype=torch.long)}, "3 labels for 2 images"),
        (torch.zeros(2, 3, 8, 8), {"labels": torch.zeros(1, dtype=torch.long)}, "2 images has 1 labels"),
        (torch.zeros(2, 3, 8, 8), {"labels": torch.zeros(2)}, "integers"),
        (torch.zeros(2, 3, 8, 8), {"labels": [1, 2]}, "not list"),
        (torch.zeros(2, 3, 8, 8), {"rounds": 0}, "rounds must be a positive integer"),
        (torch.zeros(2, 3, 8, 8), {"threads": 0}, "threads must be a positive integer"),
        (torch.zeros(2, 3, 8, 8), {"min_speedup": 1.0}, "needs time=True"),
        (torch.zeros(2, 3, 8, 8), {"max_rel_error": float("nan")}, "max_rel_error must be a number"),
        (torch.zeros(2, 3, 8, 8), {"min_agreement": "0.9"}, "min_agreement must be a number"),
    ],
)
def test_unusable_arguments(model: nn.Module, inputs: object, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        quick(model, StandIn(model), inputs, **arguments)


def test_an_empty_batch_among_others_is_harmless(model: nn.Module, x: Tensor) -> None:
    alone = quick(model, StandIn(model), x)
    with_empty = quick(model, Fake(model), [x[:0], x])
    assert with_empty.images == 3 and with_empty.batches == 2 and with_empty.macs.dense == alone.macs.dense


def test_thresholds_name_everything_that_fell_short(model: nn.Module, x: Tensor) -> None:
    compiled = StandIn(model, HasteConfig(enabled=False), change=lambda y: 2 * y.roll(1, dims=1))
    limits = {"max_rel_error": 0.1, "min_agreement": 0.99, "min_mac_reduction": 0.2, "min_speedup": 1e6}
    with pytest.raises(ValidationError) as caught:
        validate(model, compiled, x, rounds=2, **limits)  # type: ignore[arg-type]
    message = str(caught.value)
    assert isinstance(caught.value, ThresholdError)
    report = caught.value.report
    assert f"max_rel_error is {report.max_rel_error:.6g}, must be at most 0.1" in message
    assert "agreement is 0, must be at least 0.99" in message
    assert "mac_reduction is 0, must be at least 0.2" in message
    assert "speedup is 1, must be at least 1e+06" in message


def test_thresholds_that_are_met(model: nn.Module, x: Tensor) -> None:
    compiled = StandIn(model, HasteConfig(enabled=False))
    quick(model, compiled, x, max_rel_error=0, min_agreement=1, min_mac_reduction=0)


def test_agreement_is_asked_for_where_there_is_none() -> None:
    model = Function(lambda x: x.relu())
    with pytest.raises(ThresholdError, match=r"agreement must be at least 0\.5, but there is none"):
        quick(model, Fake(lambda x: x.relu()), torch.randn(1, 3, 4, 4), min_agreement=0.5)


def test_times(model: nn.Module, x: Tensor) -> None:
    report = validate(model, StandIn(model), [x, x + 1], rounds=3, threads=1)
    times = report.times
    assert times is not None and times.rounds == 3 and times.threads == 1
    for timing in (times.original, times.dense, times.compiled):
        assert 0 < timing.best <= timing.median
    assert report.speedup == times.speedup > 0
    assert times.best_speedup == times.dense.best / times.compiled.best
    assert times.dense_rel_error == 0 and times.unattributed_seconds is None
    assert all(layer.seconds is None for layer in report.layers)


def test_a_network_that_is_its_own_dense_compile_has_speedup_one(model: nn.Module, x: Tensor) -> None:
    report = validate(model, StandIn(model, HasteConfig(enabled=False)), x, rounds=2)
    assert report.times is not None and report.times.speedup == report.times.best_speedup == 1


def test_layer_times(model: nn.Module, x: Tensor) -> None:
    report = validate(model, Timed(model), x, rounds=1)
    assert [layer.seconds for layer in report.layers] == [1.0] * 4
    assert [layer.dense_seconds for layer in report.layers] == [1.0] * 4
    assert report.times is not None and report.times.unattributed_seconds == 0.5


def test_models_mode_and_threads_are_put_back(x: Tensor) -> None:
    model = SmallNet()
    model.train()
    model.stem.eval()
    modes = [module.training for module in model.modules()]
    torch.set_num_threads(2)
    report = validate(model, StandIn(model, HasteConfig(enabled=False)), x, rounds=1, threads=1)
    assert report.max_rel_error == 0  # in training mode, dropout would have made it large
    assert [module.training for module in model.modules()] == modes
    assert torch.get_num_threads() == 2


def test_several_arguments_and_outputs() -> None:
    model = Function(lambda x, y: {"sum": x + y, "parts": [x @ y, (y,)], "none": None, "number": 3})
    x, y = torch.randn(4, 4), torch.randn(4, 4)
    report = quick(model, Fake(model.function), (x, y))
    assert [output.name for output in report.outputs] == [
        "output['sum']",
        "output['parts'][0]",
        "output['parts'][1][0]",
    ]
    assert report.max_rel_error == 0 and report.macs.dense == 64
    assert [layer.kind for layer in report.layers] == ["matmul"]


def test_progress_goes_to_standard_error(model: nn.Module, x: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    validate(model, StandIn(model), [x, x], rounds=2, threads=1, progress=True)
    out, err = capsys.readouterr()
    phases = ["comparing", "compiling dense", "timing", "profiling"]
    assert not out and err.splitlines() == [f"validating: {phase}" for phase in phases]
    quick(model, StandIn(model), x)
    assert not any(capsys.readouterr())
