"""The site: the repository's pages become its pages, and what leads nowhere is refused."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("material", reason="the site needs the docs extra")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A repository of one page of ``docs`` and the pages at the root, which link to it and to a file."""
    shutil.copytree(ROOT / "docs" / "tools", tmp_path / "docs" / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    config = re.sub(r"^nav:.*\Z", "", (ROOT / "mkdocs.yml").read_text(), flags=re.M | re.S)
    (tmp_path / "mkdocs.yml").write_text(config)
    (tmp_path / "README.md").write_text("# Home\n\n[a page](docs/page.md#part), ![a picture](docs/picture.svg)\n")
    (tmp_path / "CONTRIBUTING.md").write_text("# Contributing\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n")
    (tmp_path / "docs" / "picture.svg").write_text("<svg/>")
    (tmp_path / "docs" / "page.md").write_text("# Page\n\n## Part\n\n[file](../mkdocs.yml), [Home](../README.md)\n")
    return tmp_path


def _build(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_links_lead_to_where_the_site_has_things(copy: Path) -> None:
    done = _build(copy)
    assert done.returncode == 0, done.stderr
    site = copy / "build" / "site"
    home, page = ((site / each / "index.html").read_text() for each in ("", "page"))
    assert 'href="page/#part"' in home and 'src="picture.svg"' in home
    assert 'href="../files/mkdocs.yml"' in page and 'href=".."' in page
    assert (site / "files" / "mkdocs.yml").is_file() and (site / "contributing" / "index.html").is_file()


def test_what_leads_nowhere_is_an_error(copy: Path) -> None:
    dead = ("one.md", "../two.py", "#three", "../README.md#four")
    with (copy / "docs" / "page.md").open("a") as page:
        page.writelines(f"\n[dead]({link})\n" for link in dead)
    done = _build(copy)
    assert done.returncode != 0
    assert [name for name in ("one", "two", "three", "four") if name not in done.stderr] == []


def test_the_site_fetches_nothing_from_elsewhere() -> None:
    """No font and no script of another server: it works offline, and tells nobody who reads it."""
    assert re.search(r"^  font: false", (ROOT / "mkdocs.yml").read_text(), flags=re.M)
