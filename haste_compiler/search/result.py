"""What a search returns."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

from rich.text import Text

from haste_compiler.errors import HasteError
from haste_compiler.methods.config import MethodConfig
from haste_compiler.methods.configs import Configs
from haste_compiler.search.budget import Budget
from haste_compiler.text import as_text, numbers


@dataclass(frozen=True)
class ParetoPoint:
    """One configuration, run on the images that were held out.

    Attributes:
        mac_reduction: net part of the whole network's multiply-adds that is saved, every overhead counted.
        output_error: 2-norm of the outputs' difference over that of the original's.
        agreement: part of the images whose class is the original's; None where no output holds class scores.
        accuracy: part of the images whose class is the label; None without labels.
        expected_drop: accuracy lost if the original's probabilities are right (with labels: calibrated on them); None
            where no output holds class scores.
        latency: milliseconds an image; None where not measured.
        config: of the point, as ``compile`` takes it: a method's configuration, or several in a tuple.
    """

    mac_reduction: float
    output_error: float
    agreement: float | None
    accuracy: float | None
    expected_drop: float | None
    latency: float | None
    config: Any


@dataclass(frozen=True)
class SearchResult:
    """What a search found. Prints, and shows in a notebook, as a table.

    Attributes:
        config: the configuration that saves most within the budget, or several in a tuple; pass it to ``compile``.
        pareto: what was measured and is not beaten by another point, by rising reduction; the first is the dense
            network, and one of them is ``chosen``.
        chosen: the point of ``config``.
        budget: what was asked for.
        images: how many images the points were measured on, which the settings were not chosen on.
        confidence: with which ``chosen`` keeps a budget on quality on other images.
        seconds: that the search took.
        warnings: what makes these numbers say less than they seem to.
    """

    config: Any
    pareto: tuple[ParetoPoint, ...]
    chosen: ParetoPoint
    budget: Budget
    images: int
    confidence: float
    seconds: float
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything as nested dictionaries and lists."""
        points = [{**vars(point), "config": _plain(point.config)} for point in self.pareto]
        return {
            "budget": asdict(self.budget),
            "images": self.images,
            "confidence": self.confidence,
            "seconds": self.seconds,
            "warnings": list(self.warnings),
            "chosen": self.pareto.index(self.chosen),
            "config": _plain(self.config),
            "pareto": points,
        }

    def to_json(self, indent: int | None = 2) -> str:
        """``to_dict`` as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw agreement (or, without class scores, output error) over the reduction, into a file.

        Args:
            path: its suffix says the format: .png, .svg, .pdf.

        Raises:
            HasteError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            raise HasteError("plot needs matplotlib: `pip install haste-compiler[plot]`") from None
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        reductions = [100 * point.mac_reduction for point in self.pareto]
        scored = self.chosen.agreement is not None
        axes.plot(reductions, [_height(point, scored) for point in self.pareto], marker="o")
        axes.plot([100 * self.chosen.mac_reduction], [_height(self.chosen, scored)], "s", label="chosen")
        axes.set_xlabel("net reduction of multiply-adds, %")
        axes.set_ylabel("agreement with the original, %" if scored else "relative output error, %")
        axes.legend()
        axes.grid(alpha=0.3)
        figure.savefig(path)

    def __repr__(self) -> str:
        title = f"Search within {self.budget.kind} = {self.budget.limit:g}, measured on {self.images} images"
        columns = ("", "net MAC reduction", "output error", "agreement", "accuracy", "expected drop", "ms/image")
        rows = [
            (
                "chosen" if point is self.chosen else "",
                _percent(point.mac_reduction),
                f"{point.output_error:.3f}",
                *(_percent(part) for part in (point.agreement, point.accuracy, point.expected_drop)),
                "" if point.latency is None else f"{point.latency:.3f}",
            )
            for point in self.pareto
        ]
        empty = [column for place, column in enumerate(columns) if not any(row[place] for row in rows)]
        table = numbers(title, columns, rows, 1, (*empty, "expected drop", "output error"))
        return as_text(table, *(Text(f"Warning: {warning}") for warning in self.warnings))


def _plain(config: Any) -> dict[str, Any]:
    """A configuration as JSON can hold it; several by the names of their methods."""
    return config.to_dict() if isinstance(config, MethodConfig) else Configs.of(config).to_dict()


def _height(point: ParetoPoint, scored: bool) -> float:
    return 100 * (point.agreement if scored and point.agreement is not None else point.output_error)


def _percent(part: float | None) -> str:
    return "" if part is None else f"{100 * part:.1f} %"
