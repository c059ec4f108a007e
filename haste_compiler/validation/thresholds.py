"""What a compiled network must reach, and where a project says so."""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict

from haste_compiler.errors import ConfigError, InputError

if TYPE_CHECKING:
    from haste_compiler.validation.report import ValidationReport


@dataclass(frozen=True)
class Verdict:
    """One limit, and what was reached.

    Attributes:
        name: the report's field.
        value: what was reached; None where there is nothing to hold against the limit.
        sense: "at most" or "at least".
        limit: the limit.
    """

    name: str
    value: float | None
    sense: str
    limit: float

    @property
    def missed(self) -> str:
        """Why the limit is missed; empty where it is met."""
        if self.value is None:
            return f"{self.name} must be {self.sense} {self.limit:g}, but there is none"
        # Written so that NaN misses every limit.
        met = self.value <= self.limit if self.sense == "at most" else self.value >= self.limit
        return "" if met else f"{self.name} is {self.value:.6g}, must be {self.sense} {self.limit:g}"


class Limits(TypedDict, total=False):
    """The fields of ``Thresholds``, as keyword arguments of what takes limits."""

    max_rel_error: float | None
    min_agreement: float | None
    min_mac_reduction: float | None
    min_speedup: float | None


@dataclass(frozen=True)
class Thresholds:
    """Limits on a report's fields of the same names; None: any value will do.

    Raises:
        InputError: a limit is no number, NaN, or can't be reached whatever the network does.
    """

    max_rel_error: float | None = None
    min_agreement: float | None = None
    min_mac_reduction: float | None = None
    min_speedup: float | None = None

    def __post_init__(self) -> None:
        for name, limit in vars(self).items():
            if limit is None:
                continue
            if isinstance(limit, bool) or not isinstance(limit, (int, float)) or math.isnan(limit):
                raise InputError(f"{name} must be a number or None, not {limit!r}")
        if self.max_rel_error is not None and self.max_rel_error < 0:
            raise InputError(f"max_rel_error must be at least 0, not {self.max_rel_error:g}")
        for name in ("min_agreement", "min_mac_reduction"):
            if (limit := getattr(self, name)) is not None and limit > 1:
                raise InputError(f"{name} must be at most 1, which is all, not {limit:g}")

    @classmethod
    def of_project(cls, folder: Path) -> tuple[Self, Path | None]:
        """The limits in the table ``[tool.haste]`` of the nearest ``pyproject.toml``, in a folder or one above it.

        Returns:
            The limits and the file; no limits and None where there is no such file, or it has no such table.

        Raises:
            ConfigError: the file can't be read, or the table has an entry that is no limit.
        """
        folder = folder.absolute()
        path = next((p for each in (folder, *folder.parents) if (p := each / "pyproject.toml").is_file()), None)
        if path is None:
            return cls(), None
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("haste")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} can't be read: {error}") from None
        return (cls(), None) if table is None else (cls._of_table(table, path), path)

    @classmethod
    def _of_table(cls, table: Any, path: Path) -> Self:
        known = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: tool.haste must be a table")
        limits = {str(name).replace("-", "_"): limit for name, limit in table.items()}
        for name in limits:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]}?" if close else f": allowed are {', '.join(known)}"
                raise ConfigError(f"{path}: [tool.haste] has no limit {name!r}{hint}")
        try:
            return cls(**limits)
        except InputError as error:
            raise ConfigError(f"{path}: [tool.haste]: {error}") from None

    def updated(self, **limits: float | None) -> Self:
        """With those limits changed that are not None."""
        return dataclasses.replace(self, **{name: limit for name, limit in limits.items() if limit is not None})

    def verdicts(self, **values: float | None) -> list[Verdict]:
        """Hold values, by the report's fields, against those limits that are set.

        Args:
            values: of ``max_rel_error``, ``agreement``, ``mac_reduction``, ``speedup``; None or absent: there is none.
        """
        limits = (
            ("max_rel_error", "at most", self.max_rel_error),
            ("agreement", "at least", self.min_agreement),
            ("mac_reduction", "at least", self.min_mac_reduction),
            ("speedup", "at least", self.min_speedup),
        )
        return [Verdict(name, values.get(name), sense, limit) for name, sense, limit in limits if limit is not None]

    def judge(self, report: ValidationReport) -> list[Verdict]:
        """Hold a report against those limits that are set."""
        return self.verdicts(
            max_rel_error=report.max_rel_error,
            agreement=report.agreement,
            mac_reduction=report.mac_reduction,
            speedup=report.speedup,
        )

    def check(self, report: ValidationReport) -> None:
        """Compare a report with the limits.

        Raises:
            ThresholdError: it misses some; the message names all of them.
        """
        from haste_compiler.validation.report import ThresholdError

        reasons = [verdict.missed for verdict in self.judge(report) if verdict.missed]
        if reasons:
            raise ThresholdError("; ".join(reasons), report)
