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
from haste_compiler.methods.haste.reference.module import HasteConv2d
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


def run(rule: str, net: float, lost: float, held_out: float | None = None, seed: int = 0) -> pareto.Run:
    config = HasteConfig(num_hyperplanes=round(20 * net), seed=seed)
    chosen_on, other = (Outcome(10, value, 0.9, 0.1, net, net, 0.5) for value in (lost, held_out or lost))
    return pareto.Run(rule, config, chosen_on, other, other)


def points(*runs: pareto.Run) -> list[pareto.Point]:
    return pareto.Record(None, {}, runs=list(runs)).points("uniform", "published")


def test_curves_are_read_between_their_points() -> None:
    line = pareto.curve(points(run("uniform", 0.2, 0.5), run("uniform", 0.4, 2.5)))
    assert line == [(0.0, 0.0), (0.2, 0.5), (0.4, 2.5)]
    assert pareto.reduction_at(line, 1.5) == pytest.approx(0.3)
    assert pareto.reduction_at(line, 0.1) == pytest.approx(0.04)
    assert pareto.reduction_at(line, 9.0) == pytest.approx(0.4)
    assert pareto.loss_at(line, 0.1) == pytest.approx(0.25)
    assert pareto.loss_at(line, 0.3) == pytest.approx(1.5)
    assert math.isnan(pareto.loss_at(line, 0.5))


def test_points_are_chosen_on_one_half_and_read_on_the_other() -> None:
    """The second is beaten where points are chosen, though not where they are read; the seeds of a setting are one."""
    lucky = [run("uniform", 0.3, 1.0, held_out=2.0, seed=seed) for seed in (1, 0)]
    found = points(*lucky, run("uniform", 0.2, 1.5, held_out=0.5), run("published", 0.1, 0.1, held_out=0.4))
    assert [len(point.runs) for point in found] == [2, 1, 1]
    assert found[0].config.seed == 0
    assert pareto.curve(found) == [(0.0, 0.0), (0.1, 0.4), (0.3, 2.0)]
    best = pareto.best_point(found, 1.25, "chosen_on")
    assert best is not None and best.mean("lost") == 2.0
    assert pareto.best_point(found, 1.25, "held_out") == found[1]


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
        write_images(images / name, [f"{number}.png" for number in range(6)], colour)
    given = ["--network", "tests.benchmarks.test_pareto:small_network", "--images", str(images), "--batch", "2"]
    out, drawn = tmp_path / "out.json", tmp_path / "drawn.svg"
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the curves, is not installed")
    rules = ["--rules", *pareto.RULES, "--patches", "16", "--points", "1", "--budgets", "40"]
    command = ["pareto", *given, *rules, "--seeds", "2", "--screen", "2", "--json", str(out)]
    monkeypatch.setattr("sys.argv", [*command, "--seconds", "0"])
    assert pareto.main() == 0
    assert "the same command with --json goes on" in capsys.readouterr().out
    assert json.loads(out.read_text())["runs"] == []
    monkeypatch.setattr("sys.argv", [*command, "--plot", str(drawn)])
    assert pareto.main() == 0
    stored = json.loads(out.read_text())
    assert {r["rule"] for r in stored["runs"]} <= set(pareto.RULES)
    assert [r["config"]["seed"] for r in stored["runs"] if r["rule"] == "uniform"] == [0, 1]
    assert stored["answers"]["held_out"]["ratio_by_seed"]
    assert drawn.stat().st_size > 1000

    def nothing_runs(*_: object) -> None:
        raise AssertionError("what is in the file was measured again")

    with monkeypatch.context() as again:
        again.setattr(Evaluator, "run", nothing_runs)
        again.setattr("haste_compiler.search", nothing_runs)
        assert pareto.main() == 0
    assert json.loads(out.read_text())["runs"] == stored["runs"]
    monkeypatch.setattr("sys.argv", [*command, "--drop", "3"])
    assert pareto.main() == 1
    assert "give another file" in capsys.readouterr().err
    monkeypatch.setattr(
        "sys.argv", ["ablations", *given, "--studies", "merge", "rounds", "layers", "bound", "--json", str(out)]
    )
    assert ablations.main() == 0
    assert {row["study"] for row in json.loads(out.read_text())["rows"]} == {"merge", "rounds", "layers", "bound"}
    bound = [row for row in json.loads(out.read_text())["rows"] if row["study"] == "bound"]
    assert all(0 < share < 1 for row in bound for share in row["error_over_bound"].values())
    assert "| projection |" in capsys.readouterr().out
