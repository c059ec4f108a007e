"""The studies: images are read as they should be, curves are read off rightly, variants count like the operator."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import ablations, pareto
from benchmarks.ablations import Variant, VariantConv2d
from benchmarks.cases import AbsentError
from benchmarks.evaluation import Evaluator, Outcome, Workload, load, read_folder, undominated
from haste_compiler import HasteConfig
from haste_compiler.haste import HasteConv2d
from haste_compiler.validation import validate

Image = pytest.importorskip("PIL.Image", reason="Pillow, which reads the images, is not installed")


def small_network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, 1, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 2),
        )


def small_workload(count: int = 5, batch: int = 2) -> Workload:
    model = small_network().eval()
    pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)

    def normalise(given: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(given)).permute(0, 3, 1, 2).float().contiguous() / 255 - 0.5

    scores = model(normalise(pixels))
    macs = 16 * 3 * 9 * 64 + 16 * 16 * 9 * 64 + 32
    return Workload("small", model, pixels, scores.argmax(dim=1), normalise, scores, macs, batch)


def write_images(folder: Path, names: list[str], colour: int, size: tuple[int, int] = (40, 80)) -> None:
    folder.mkdir(parents=True)
    for name in names:
        Image.fromarray(np.full((*size, 3), colour, np.uint8)).save(folder / name)


def test_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_images(tmp_path / "b", ["1.png", "2.png"], 200)
    write_images(tmp_path / "a", ["1.png", "notes.png"], 10)
    (tmp_path / "a" / "readme.txt").write_text("no image")
    pixels, labels = read_folder(tmp_path, limit=3, side=32)
    assert pixels.shape == (3, 32, 32, 3)
    assert labels is not None and labels.tolist() == [0, 1, 0]
    assert pixels[:, 0, 0, 0].tolist() == [10, 200, 10]


def test_images_without_classes_have_no_labels_and_large_ones_are_cut_from_the_middle(tmp_path: Path) -> None:
    write_images(tmp_path / "flat", ["x.jpg"], 70, size=(300, 500))
    pixels, labels = read_folder(tmp_path / "flat", limit=9, side=224)
    assert labels is None
    assert pixels.shape == (1, 224, 224, 3)


def test_a_folder_without_images_says_so(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(AbsentError, match="holds no images"):
            read_folder(folder, limit=1, side=32)


def test_a_network_that_the_images_do_not_fit_is_refused() -> None:
    with pytest.raises(AbsentError, match="give a folder of images for torchvision:resnet18"):
        load("torchvision:resnet18")


def test_only_points_that_none_beats_are_kept() -> None:
    assert undominated([(0.3, 2.0), (0.1, 0.5), (0.2, 0.4), (0.3, 1.0), (0.4, 1.0)]) == [2, 4]


def point(rule: str, net: float, lost: float) -> pareto.Point:
    outcome = Outcome(10, lost, 0.9, 0.1, net, net, 0.5)
    return pareto.Point(rule, HasteConfig(), [outcome], [outcome], [outcome])


def test_curves_are_read_between_their_points() -> None:
    points = [point("uniform", 0.2, 0.5), point("uniform", 0.4, 2.5)]
    assert pareto.reduction_at(points, 1.5) == pytest.approx(0.3)
    assert pareto.reduction_at(points, 9.0) == pytest.approx(0.4)
    assert math.isnan(pareto.reduction_at(points, 0.1))
    assert pareto.loss_at(points, 0.1) == pytest.approx(0.25)
    assert pareto.loss_at(points, 0.3) == pytest.approx(1.5)
    assert math.isnan(pareto.loss_at(points, 0.5))
    assert pareto.around([*points, point("uniform", 0.5, 3.0)], limit=1.0) == points


def test_multiply_adds_are_those_that_the_validator_counts() -> None:
    work = small_workload()
    config = HasteConfig(patch_size=4, tolerance=0.5, cost_model=False)
    outcome = Evaluator(work.model).run(work.rows(slice(0, 4)), config).outcome(work.rows(slice(0, 4)))
    compiled = Evaluator(work.model)._steered(config, work)
    report = validate(work.model, compiled, work.rows(slice(0, 4)).calls(), time=False)
    assert outcome.net == pytest.approx(report.mac_reduction, abs=1e-6)
    assert outcome.error > 0


def test_steering_gives_what_compiling_anew_does_and_repeated_images_do_not_count() -> None:
    work, evaluator = small_workload(), Evaluator(small_network())
    bold = HasteConfig(patch_size=4, num_hyperplanes=2, tolerance=None, flat_tolerance=0.5, cost_model=False)
    careful = HasteConfig(patch_size=4, layers={"2": {"tolerance": 0.1, "flat_tolerance": 0.0}}, cost_model=False)
    for config in (bold, careful, bold):
        steered = evaluator.run(work, config)
        assert steered.scores.shape == (5, 2)
        assert torch.equal(steered.scores, Evaluator(small_network()).run(work, config).scores)


@pytest.mark.parametrize("config", [*ablations.BASES.values(), HasteConfig(skip="zeros", cost_model=False)])
def test_a_plain_variant_is_the_operator(config: HasteConfig) -> None:
    conv, x = nn.Conv2d(16, 8, 3, padding=1), torch.randn(2, 16, 10, 10).relu()
    x[:, 3], x[:, 5] = 0, x[:, 4] * 2
    varied, plain = VariantConv2d(conv, config, "conv", Variant("", config)), HasteConv2d(conv, config, "conv")
    result, macs = plain.analyse(x)
    assert torch.allclose(varied(x), result.output, atol=1e-6)
    assert varied.macs == macs


def test_more_rounds_keep_fewer_channels_and_hash_more() -> None:
    config = HasteConfig(num_hyperplanes=4, tolerance=None, skip="none", cost_model=False)
    conv, x = nn.Conv2d(32, 8, 3, padding=1), torch.randn(1, 32, 16, 16)
    once, twice = (VariantConv2d(conv, config, "conv", Variant("", config, rounds=rounds)) for rounds in (1, 2))
    for module in (once, twice):
        module(x)
    assert twice.channels[1] < once.channels[1]
    assert twice.macs.hashing == 2 * once.macs.hashing


def test_windows_that_differ_by_a_constant_meet_once_their_own_means_are_taken_off() -> None:
    window = torch.randn(1, 1, 36)
    windows, planes = torch.cat([window, window + 5], dim=1), torch.randn(12, 36)
    own, plain = (
        ablations.centred_codes(windows, torch.ones(1, 36), planes, 1, centring) for centring in ("own", "none")
    )
    assert own[0, 0] == own[0, 1]
    assert plain[0, 0] != plain[0, 1]


def test_commands_measure_a_network_and_a_folder_that_they_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    for name, colour in (("a", 30), ("b", 220)):
        write_images(images / name, ["1.png", "2.png"], colour)
    given = ["--network", "tests.benchmarks.test_pareto:small_network", "--images", str(images), "--batch", "2"]
    out, drawn = tmp_path / "out.json", tmp_path / "drawn.svg"
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the curves, is not installed")
    run = ["--rules", "published", "uniform", "--patches", "16", "--points", "1", "--seeds", "2", "--plot", str(drawn)]
    monkeypatch.setattr("sys.argv", ["pareto", *given, *run, "--json", str(out)])
    assert pareto.main() == 0
    stored = json.loads(out.read_text())
    assert {p["rule"] for p in stored["points"]} == {"published", "uniform"}
    assert [len(p["whole"]) for p in stored["points"] if p["rule"] == "uniform"] == [2]
    assert drawn.stat().st_size > 1000
    monkeypatch.setattr("sys.argv", ["ablations", *given, "--studies", "merge", "layers", "--json", str(out)])
    assert ablations.main() == 0
    assert {row["study"] for row in json.loads(out.read_text())["rows"]} == {"merge", "layers"}
    assert "| projection |" in capsys.readouterr().out
