"""The benchmark's processes: what a worker is told and answers, what is searched once, what the command line writes."""

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks import peers, searched, worker
from benchmarks.cases import CASES, TRAINED, Case, searched_images
from haste_compiler import HasteConfig
from haste_compiler.demo import load_network
from tests import zoo
from tests.methods.haste.networks import redundant_images


def work(**changes: object) -> worker.Work:
    usual = {"case": "conv_none_duplicated", "batch": 2, "threads": 1, "runners": ["eager", "paper"]}
    return worker.Work(**{**usual, "rounds": 2, "seconds": 60.0, "searched": "none.json", **changes})  # type: ignore[arg-type]


def test_a_worker_measures_in_a_process_of_its_own() -> None:
    seen: list[tuple[str, float]] = []
    found = worker.run(work(), lambda doing, part: seen.append((doing, part)))
    assert (found.case, found.batch, found.threads) == ("conv_none_duplicated", 2, 1)
    assert not found.failure and not found.absent
    # The case doesn't ask for "paper".
    assert [m.runner for m in found.measurements] == ["eager"] and found.measurements[0].best > 0
    assert seen[0] == ("preparing eager", 0.0)
    assert seen[-1][0] == "round 2 of 2" and seen[-1][1] == pytest.approx(2 / 3, abs=1e-3)


def test_a_worker_that_dies_is_a_failure() -> None:
    found = worker.run(work(case="nothing"), lambda doing, part: None)
    assert "status 1" in found.failure and not found.measurements


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinities")
def test_a_worker_has_as_many_cores_as_threads() -> None:
    before = os.sched_getaffinity(0)
    try:
        worker.pin(1)
        assert os.sched_getaffinity(0) == {max(before)}
    finally:
        os.sched_setaffinity(0, before)


def test_what_was_searched_is_read_again_but_not_for_another_budget(tmp_path: Path) -> None:
    path = tmp_path / "searched.json"
    assert searched.read(path, "cifar_resnet18") is None
    config = HasteConfig(layers={"conv1": {"tolerance": 0.25}})
    path.write_text(json.dumps({"cifar_resnet18": {"budget": searched.BUDGET, "config": config.to_dict()}}))
    assert searched.read(path, "cifar_resnet18") == config and searched.read(path, "photographs_resnet18") is None
    path.write_text(json.dumps({"cifar_resnet18": {"budget": 0.5, "config": config.to_dict()}}))
    assert searched.read(path, "cifar_resnet18") is None


@pytest.mark.parametrize("name", TRAINED)
def test_images_that_are_searched_on_are_not_those_that_are_checked(name: str) -> None:
    zoo.trained("resnet18")
    one, four = CASES[name](1), CASES[name](4)
    checked = {image.numpy().tobytes() for call in one.checked for image in call}
    assert checked == {image.numpy().tobytes() for call in four.checked for image in call}
    assert all(call.shape[0] == 4 for call in (*four.inputs, *four.checked))
    assert not checked & {image.numpy().tobytes() for image in searched_images(name)}
    assert one.labels is None or len(one.labels) == len(checked)


def test_when_time_is_up_the_rest_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--networks", "resnet18", "--batches", "1", "4", "--seconds", "0", "--out", str(tmp_path)]
    assert peers.main(arguments) == 0
    stored = json.loads((tmp_path / "peers.json").read_text())
    assert [(r["batch"], r["threads"]) for r in stored["results"]] == [(1, 1), (1, 2), (4, 1), (4, 2)]
    text = (tmp_path / "peers.md").read_text()
    assert text.count("not measured: no time was left") == 4 and text.strip() in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--batches", "33"], ["--threads", "0"], ["--networks", "x"]])
def test_numbers_out_of_range_are_refused(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        peers.main([*arguments, "--out", str(tmp_path)])
    assert caught.value.code == 2 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_everything_at_once_on_a_single_convolution(tmp_path: Path) -> None:
    arguments = ["--networks", "conv_half_duplicated", "--batches", "1", "--threads", "1", "2", "--rounds", "3"]
    assert peers.main([*arguments, "--out", str(tmp_path), "--memory"]) == 0, sys.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"peers.json", "peers.md", "peers.svg"}
    assert peers.main([*arguments, "--out", str(tmp_path), "--layers"]) == 0
    assert "bound by" in (tmp_path / "layers.md").read_text()


@pytest.mark.slow
def test_what_a_search_finds_is_added_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = redundant_images(64, 1, 32, 32, seed=0)
    monkeypatch.setattr(searched, "searched_images", lambda case: images)
    monkeypatch.setitem(CASES, "cifar_resnet18", lambda batch: Case(load_network(), [images[:batch]], []))
    path = tmp_path / "searched.json"
    path.write_text(json.dumps({"another": {"budget": searched.BUDGET}}))
    searched.search(path, "cifar_resnet18")
    found, stored = searched.read(path, "cifar_resnet18"), json.loads(path.read_text())
    assert found is not None and found.layers and stored.keys() == {"another", "cifar_resnet18"}
    entry = stored["cifar_resnet18"]
    assert entry["images"] == 64 and entry["expected_drop"] <= searched.BUDGET and entry["mac_reduction"] >= 0
