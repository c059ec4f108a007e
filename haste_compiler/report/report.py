"""``Report``: what ``CompiledModule.report`` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

from torch import nn

from haste_compiler.files import write_text
from haste_compiler.report.libraries import require
from haste_compiler.report.search_found import SearchFound
from haste_compiler.validation.thresholds import Thresholds

if TYPE_CHECKING:
    from haste_compiler.report.evidence import Evidence
    from haste_compiler.runtime.compiled import CompiledModule


@dataclass(frozen=True)
class Report:
    """What a compiled network did with some images, as a page to look at.

    Attributes:
        evidence: all numbers, as plain data.
        search: the search's result whose curve is shown; None: there was none.
        limits: that the first numbers are held against.
    """

    evidence: Evidence
    search: SearchFound | None = None
    limits: Thresholds = field(default_factory=Thresholds)

    def html(self) -> str:
        """The page: one file that needs nothing else, neither other files nor a network."""
        from haste_compiler.report.page import render

        return render(self.evidence, self.search, self.limits)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the page.

        Args:
            path: of the file, such as "report.html".

        Raises:
            OSError: it can't be written.
        """
        write_text(path, self.html())

    def __repr__(self) -> str:
        return f"Report of {self.evidence.name} on {self.evidence.report.images} images; save() writes it as a page"


def report_of(compiled: CompiledModule, model: nn.Module, inputs: Any, **options: Any) -> Report:
    """See ``CompiledModule.report``."""
    require()
    # Everybody who compiles imports this file, and few ask for a report.
    from haste_compiler.report.evidence import collect

    search, limits = options.pop("search", None), options.pop("limits", None)
    return Report(collect(model, compiled, inputs, **options), search, Thresholds(**(limits or {})))
