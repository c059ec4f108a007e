"""Hooks of mkdocs: the pages at the repository's root, and the files that pages link to, become part of the site.

On GitHub a page links to ``../CONTRIBUTING.md`` or ``../examples/vggt.py``. On the site the first is a page of its own,
and the second a file beside the pages.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages at the root, and their names on the site."""

LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
"""Where a link of Markdown leads, if it is relative."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the root's pages, and what they or other pages link to outside ``docs``."""
    for name, uri in PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / name).read_text(encoding="utf-8")))
    for page in list(files.documentation_pages()):
        for link in LINK.finditer(page.content_string):
            target = _outside(page.src_uri, link["path"])
            if target is not None and target.is_file() and _uri(target) not in files.src_uris:
                files.append(File.generated(config, _uri(target), abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead where the files are on the site."""

    def moved(link: re.Match[str]) -> str:
        target = _outside(page.file.src_uri, link["path"])
        return link[0] if target is None else _uri(target) + (link["anchor"] or "")

    return LINK.sub(moved, markdown)


def _outside(uri: str, link: str) -> Path | None:
    """The file that a page links to, where the site keeps page or file at another place than the repository."""
    at_root = {site: name for name, site in PAGES.items()}
    page = ROOT / at_root[uri] if uri in at_root else ROOT / "docs" / uri
    target = (page.parent / link).resolve()
    inside = target.is_relative_to(ROOT / "docs")
    if not target.exists() or (inside and uri not in at_root):
        return None
    return target


def _uri(target: Path) -> str:
    """Where the site has this file of the repository."""
    relative = target.relative_to(ROOT)
    if relative.parts[0] == "docs":
        return Path(*relative.parts[1:]).as_posix()
    return PAGES.get(relative.as_posix(), f"files/{relative.as_posix()}")
