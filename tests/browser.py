"""A page in headless Chromium, with everything that it says and asks for."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Opened:
    """A page.

    Attributes:
        page: Playwright's.
        errors: what it wrote to the console as errors or warnings, and what it raised.
        requests: the addresses that it asked for.
    """

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def see(self, message: Any) -> None:
        """A message on the console."""
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def run(self, script: str) -> Any:
        """What a script returns that has ``model(name)``: the model of Bokeh's with that name."""
        named = "const model = (name) => Bokeh.documents[0].get_model_by_name(name);"
        return self.page.evaluate(f"() => {{ {named} {script} }}")


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """The browser; skips the test where there is none, or no Playwright to drive it.

    There can be only one at a time.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("chromium isn't installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=_FLAGS)
        yield browser
        browser.close()


def opened(browser: Any, address: str, width: int = 1280, scheme: str = "light", patience: int = 60_000) -> Opened:
    """Open a page in a tab of its own. The caller waits for what says that it is drawn, ``patience`` ms at most."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(patience)
    found = Opened(context.new_page())
    found.page.on("console", found.see)
    found.page.on("pageerror", lambda error: found.errors.append(str(error)))
    found.page.on("request", lambda request: found.requests.append(request.url))
    found.page.goto(address)
    return found
