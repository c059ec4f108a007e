"""The page: whole, by itself, and its controls do what they say."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import haste_compiler
from haste_compiler import FlatConfig, HasteConfig, HasteError, InputError
from haste_compiler.cli.commands import run_command
from haste_compiler.report.headline import headline
from haste_compiler.report.report import Report
from haste_compiler.report.search_found import read_search
from haste_compiler.validation.thresholds import Thresholds
from tests.browser import Opened, chromium, opened
from tests.methods.haste.networks import redundant_images


class Small(nn.Module):
    """Convolutions with a residual, and an operator that PyTorch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.first, self.second = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.second(torch.relu(self.first(x)))
        scores = self.head(x.mean((2, 3)))
        return scores + torch.sort(scores, 1)[0]


POINTS = [
    {"mac_reduction": 0.0, "output_error": 0.0, "agreement": 1.0, "latency": 2.0},
    {"mac_reduction": 0.3, "output_error": 0.1, "agreement": 0.9, "latency": None},
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    torch.manual_seed(0)
    config = HasteConfig(cost_model=False, patch_size=4, min_channels=8)
    compiled = haste_compiler.compile(Small().eval(), config=config, threads=1)
    search = tmp_path_factory.mktemp("search") / "search.json"
    search.write_text(json.dumps({"pareto": POINTS, "chosen": 1}))
    images = [redundant_images(1, 3, 24, 20, seed) for seed in range(2)]
    limits = {"min_agreement": 0.0, "min_speedup": 1e6}
    made: Report = compiled.report(images, search=read_search(search), rounds=1, limits=limits)
    return made


@pytest.fixture(scope="module")
def path(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.save(path)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


def _drawn(browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> Opened:
    """A report in the browser, once it is drawn."""
    found = opened(browser, path.as_uri(), width, scheme)
    found.page.wait_for_selector("html[data-ready]")
    return found


@pytest.fixture(scope="module")
def page(browser: Any, path: Path) -> Opened:
    return _drawn(browser, path)


def test_evidence_is_of_every_layer(report: Report) -> None:
    evidence = report.evidence
    layers = {layer.name: layer for layer in evidence.layers}
    assert list(layers) == ["stem", "first", "second", "mean_dim", "head"]
    assert [layers[name].method for name in ("stem", "first", "second", "head")] == [None, "haste", "haste", None]
    for name in ("first", "second"):
        layer = layers[name]
        assert layer.work is not None and layer.kept == pytest.approx(layer.work.mean)
        assert layer.change is not None and layer.bound is not None and layer.change.error <= layer.bound
        assert layer.seconds == pytest.approx(sum(layer.phases.values())) and len(layer.phases) > 1
    assert all(layer.dense_seconds and layer.roof_seconds for layer in evidence.layers if layer.macs.dense)
    assert set(evidence.graph.predecessors("second")) == {"first", "stem"}
    assert evidence.report.images == 2 and evidence.file_bytes and evidence.file_bytes > evidence.weight_bytes
    assert [each.operators for each in evidence.fallbacks] == [("aten.sort.default",)]
    assert evidence.image is not None and evidence.image.shape == (3, 24, 20)


def test_the_first_numbers_are_held_against_the_limits(report: Report) -> None:
    numbers = headline(report.evidence, report.limits)
    assert {number.title for number in numbers} == {
        "speed", "arithmetic", "agreement", "relative error", "file", "energy",
    }  # fmt: skip
    missed = {number.title: bool(number.verdict.missed) for number in numbers if number.verdict is not None}
    assert missed == {"speed": True, "agreement": False}
    assert not any(number.verdict for number in headline(report.evidence, Thresholds()))


def test_it_is_one_small_file_that_asks_for_nothing(path: Path, page: Opened) -> None:
    assert path.stat().st_size < 6e6
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.requests.count(path.as_uri()) == 1


def test_every_section_is_there_with_a_line_on_it(page: Opened) -> None:
    names = page.run("return [...document.querySelectorAll('section')].map((each) => each.id)")
    assert names == [
        "network", "heat", "merged", "times", "kept", "spread", "bounds", "changes", "pareto", "fallbacks", "table",
    ]  # fmt: skip
    words = page.run("return [...document.querySelectorAll('section > p')].map((each) => each.innerText)")
    assert len(words) == len(names) - 1 and all(words)


def test_boxes_are_coloured_by_what_is_chosen(page: Opened) -> None:
    colours = "const boxes = model('boxes').data_source.data; return Array.from(boxes.colour)"
    keys = "return [...document.querySelectorAll('[data-colouring]')].map((each) => getComputedStyle(each).display)"
    seen = []
    for index, button in enumerate(("time", "work saved", "method")):
        page.page.get_by_role("button", name=button, exact=True).click()
        seen.append(page.run(colours))
        assert [display != "none" for display in page.run(keys)] == [place == index for place in range(3)]
    assert len({tuple(each) for each in seen}) == 3
    names = page.run("return Array.from(model('boxes').data_source.data.name)")
    owners = dict(zip(names, seen[2], strict=True))
    assert owners["first"] == owners["second"] != owners["stem"] == owners["head"]


def test_a_layer_that_is_chosen_changes_map_words_and_groups(page: Opened) -> None:
    maps = "return Array.from(model('heat').data_source.data.image.map((each) => Array.from(each)).flat())"
    shown = {}
    for name in ("first", "second", "stem"):
        page.page.locator("select").select_option(name)
        page.page.wait_for_function(
            f"() => Bokeh.documents[0].get_model_by_name('details').text.includes('<b>{name}</b>')"
        )
        shown[name] = page.run(maps)
        marked = "const source = model('boxes').data_source; return source.data.name[source.selected.indices[0]]"
        assert page.run(marked) == name
    assert shown["first"] != shown["second"] and shown["first"] and shown["stem"] == []
    assert page.run("return model('channels').data_source.data.image.length") == 0
    assert page.run("return model('channels plot').visible") is False


def test_a_box_that_is_clicked_is_the_layer_that_is_shown(page: Opened) -> None:
    page.run("model('layer').value = 'stem'")
    page.page.locator(".network").scroll_into_view_if_needed()
    place = page.run(
        "const plot = model('network plot'), source = model('boxes').data_source;"
        "const index = Array.from(source.data.name).indexOf('second'), {x_range, y_range} = plot;"
        "const around = document.querySelector('.network').getBoundingClientRect();"
        "const across = (source.data.x[index] - x_range.start) / (x_range.end - x_range.start);"
        "const down = (y_range.end - source.data.y[index]) / (y_range.end - y_range.start);"
        "return [around.left + across * plot.inner_width, around.top + down * plot.inner_height]"
    )
    page.page.mouse.click(*place)
    page.page.wait_for_function("() => Bokeh.documents[0].get_model_by_name('layer').value === 'second'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_telephone_nothing_is_wider_than_the_page(browser: Any, path: Path, scheme: str) -> None:
    page = _drawn(browser, path, width=390, scheme=scheme)
    assert page.run("return document.documentElement.scrollWidth") == 390
    paper, ink = page.run(
        "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
        ".map((each) => each.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0))"
    )
    assert (paper > ink) == (scheme == "light")
    axis = page.run("return model('times plot').below[0].major_label_text_color")
    assert axis == ("#1b1f24" if scheme == "light" else "#e8eaed")
    assert page.errors == []


def test_without_what_it_is_drawn_with_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bokeh", None)
    compiled = haste_compiler.compile(Small().eval(), threads=1)
    with pytest.raises(HasteError, match=r"needs bokeh: `pip install haste-compiler\[report\]`"):
        compiled.report(redundant_images(1, 3, 24, 20))


def test_a_network_without_methods_or_images_has_a_page_too(browser: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    compiled = haste_compiler.compile(model, config=FlatConfig(enabled=False), threads=1)
    made: Report = compiled.report(torch.randn(3, 8), rounds=1)
    assert made.evidence.image is None and not made.evidence.titles
    made.save(tmp_path / "report.html")
    page = _drawn(browser, tmp_path / "report.html")
    assert page.errors == []
    names = page.run("return [...document.querySelectorAll('section')].map((each) => each.id)")
    assert names == ["network", "times", "table"]


@pytest.mark.parametrize("text", ["", "[]", '{"pareto": [], "chosen": 0}', '{"pareto": [{}], "chosen": 0}'])
def test_a_file_that_is_no_search_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "search.json").write_text(text)
    with pytest.raises(InputError, match="is no result of a search"):
        read_search(tmp_path / "search.json")


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nets.py").write_text(
        "from tests.report.test_page import Small\n\n\ndef small():\n    return Small()\n"
    )
    path = tmp_path / "out.html"
    arguments = [f"{tmp_path / 'nets.py'}:small", "--input", "1x3x24x20", "--limit", "2", "--rounds", "1"]
    assert run_command(["report", *arguments, "--threads", "1", "-o", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"output": str(path), "bytes": path.stat().st_size, "images": 2}
    assert "nets.py:small: report</title>" in path.read_text()
