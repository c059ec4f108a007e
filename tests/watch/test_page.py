"""The page in a browser, served by ``haste watch`` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import Opened, chromium, opened

pytest.importorskip("bokeh", reason="bokeh isn't installed")

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ("watch", "haste_compiler.demo:load_network", "--input", "1x1x32x32", "--no-cost-model", "--threads", "1")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The page's address; when all is done, an interrupt ends the server with one word."""
    start = (sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); ")
    program = start[2] + "import sys; from haste_compiler.cli import run; sys.exit(run())"
    process = subprocess.Popen(
        [start[0], start[1], program, *COMMAND, "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"is watched at (http://127\.0\.0\.1:\d+/) until Ctrl-C", line)
    assert found, line + process.communicate()[1]
    yield found[1]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.splitlines()[-1] == "interrupted"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def _open(browser: Any, url: str, width: int = 1280, scheme: str = "light") -> Opened:
    """A tab, once its first look is shown."""
    found = opened(browser, url, width, scheme, patience=120_000)
    found.page.get_by_text("million multiply-adds").wait_for()
    return found


def _numbers(tab: Opened) -> str:
    return str(tab.run("return model('numbers').text"))


def _turn(tab: Opened, name: str, value: str) -> None:
    """Move a slider, and wait until what it changes is shown."""
    before = _numbers(tab)
    tab.run(f"model({name!r}).value = {value!r}")
    tab.page.wait_for_function("(before) => Bokeh.documents[0].get_model_by_name('numbers').text != before", arg=before)


def _million(text: str) -> float:
    found = re.search(r"million multiply-adds</td><td>([\d.]+)", text)
    assert found
    return float(found[1])


def test_the_tolerance_changes_the_work_that_is_shown(browser: Any, url: str) -> None:
    tab = _open(browser, url)
    before = _numbers(tab)
    _turn(tab, "tolerance", "0")
    strict = _numbers(tab)
    _turn(tab, "tolerance", "1")
    assert _million(_numbers(tab)) < _million(strict) <= _million(before) * 1.5
    assert "kept, all layers" in before and "as fast" in before
    assert tab.errors == []
    assert all(request.startswith((url, "data:", "ws://127.0.0.1")) for request in tab.requests)
    tab.page.context.close()


def test_another_layer_has_another_map(browser: Any, url: str) -> None:
    tab = _open(browser, url)
    layers = tab.run("return model('layer').options")
    shape = "const image = model('heat').renderers.at(-1).data_source.data.image[0]; return Array.from(image).join()"
    before = tab.run(shape)
    tab.run(f"model('layer').value = {layers[-1]!r}")
    tab.page.wait_for_function(f"() => Bokeh.documents[0].get_model_by_name('numbers').text.includes({layers[-1]!r})")
    assert len(layers) > 1 and tab.run(shape) != before and tab.errors == []
    tab.page.context.close()


def test_files_are_opened_or_refused(browser: Any, url: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow isn't installed")
    picture, broken = tmp_path / "digit.png", tmp_path / "broken.png"
    pixels = np.zeros((64, 96), np.uint8)
    pixels[16:48, 40:56] = 255
    image.fromarray(pixels).save(picture)
    broken.write_bytes(b"nothing of the kind")
    tab = _open(browser, url)
    before = _numbers(tab)
    tab.page.locator("input[type=file]").set_input_files(picture)
    tab.page.wait_for_function("(before) => Bokeh.documents[0].get_model_by_name('numbers').text != before", arg=before)
    assert tab.run("return model('scene').value") == "digit.png"
    tab.page.locator("input[type=file]").set_input_files(broken)
    tab.page.get_by_text("broken.png is neither an image nor a video that can be read").wait_for()
    assert tab.run("return model('scene').value") == "digit.png" and tab.errors == []
    tab.page.context.close()


def test_a_video_is_played_as_a_stream(browser: Any, url: str) -> None:
    tab = _open(browser, url)
    tab.run("model('scene').value = 'made-up video'")
    tab.page.wait_for_function("() => Bokeh.documents[0].get_model_by_name('play') != null")
    tab.run("model('play').active = true")
    tab.page.get_by_text("frames a second").wait_for()
    tab.page.wait_for_function("() => !Bokeh.documents[0].get_model_by_name('play').active")
    frames = tab.run("return Array.from(model('course').renderers[0].data_source.data.work)")
    assert len(frames) == 24 and frames[0] == 1 and max(frames[1:]) < 1 and tab.errors == []
    tab.page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_shows_it_without_scrolling_sideways(browser: Any, url: str, scheme: str) -> None:
    tab = _open(browser, url, width=390, scheme=scheme)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    ink, page = (tab.page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, page)]
    assert (brightness[0] < brightness[1]) == (scheme == "light") and abs(brightness[0] - brightness[1]) > 400
    tab.page.context.close()


def test_requests_that_name_another_host_get_nothing(url: str) -> None:
    with urllib.request.urlopen(url) as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(urllib.request.Request(url, headers={"Host": "elsewhere.example"}))
