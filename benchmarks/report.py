"""Show measurements: a table on the terminal, Markdown for the documentation, a dictionary for JSON."""

import dataclasses
import importlib.metadata
import math
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import cases, runners
from benchmarks.measure import Measurement

_PACKAGES = ("haste-compiler", "torch", "apache-tvm", "onnxruntime", "openvino")
_VECTOR_FLAGS = ("avx512f", "avx2", "asimd", "neon")


@dataclasses.dataclass(frozen=True)
class Result:
    """All measurements of one case with one number of threads.

    Attributes:
        case: its name.
        threads: of every runner.
        rounds: how often each runner was timed.
        measurements: one a runner.
        absent: what the case needs and this machine does not have; nothing was measured.
        failure: what went wrong, so that nothing was measured.
    """

    case: str
    threads: int
    rounds: int
    measurements: list[Measurement]
    absent: str = ""
    failure: str = ""

    def best_peer(self) -> float:
        """Best time of all peers in milliseconds; NaN where none ran."""
        times = [m.best for m in self.measurements if m.runner in runners.PEERS and not math.isnan(m.best)]
        return min(times, default=math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it: what was not measured is None."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {k: plain(v) for k, v in value.items()}
            if isinstance(value, list):
                return [plain(v) for v in value]
            return None if isinstance(value, float) and math.isnan(value) else value

        result: dict[str, Any] = plain(dataclasses.asdict(self))
        return result


def machine() -> dict[str, str]:
    """What the numbers were measured on: processor, its widest vectors, cores, system, versions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} absent")
    model = fields.get("model name") or platform.processor() or platform.machine()
    family = f" (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else ""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": model + family,
        "vectors": next((flag for flag in _VECTOR_FLAGS if flag in flags), "unknown"),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(versions),
    }


_HEADINGS = ("", "best ms", "median ms", "÷ best peer", "error", "prepare s", "peak MiB", "preparing", "planned")


def _row(m: Measurement, result: Result) -> list[str]:
    title = runners.TITLES[m.runner]
    if m.failure:
        return [title, m.failure, *[""] * (len(_HEADINGS) - 2)]
    times = f"{m.best:.2f}", f"{m.median:.2f}", f"{m.best / result.best_peer():.2f}"
    memory = ("" if math.isnan(size) else f"{size:.0f}" for size in (m.peak, m.preparing, m.planned))
    return [title, *times, f"{m.error:.1e}", f"{m.prepare:.1f}", *memory]


def _columns(results: list[Result]) -> int:
    """How many columns hold something: those of memory only if it was measured."""
    measured = any(not math.isnan(m.peak) for result in results for m in result.measurements)
    return len(_HEADINGS) if measured else len(_HEADINGS) - 3


def _title(result: Result) -> str:
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    return f"{cases.TITLES[result.case]}; batch 1, {threads}"


def table(result: Result) -> Table:
    """The result as a table for the terminal."""
    shown = Table(*_HEADINGS[: _columns([result])], title=_title(result), title_justify="left")
    for column in shown.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for m in result.measurements:
        shown.add_row(*_row(m, result)[: len(shown.columns)])
    if result.absent or result.failure:
        shown.add_row(result.absent or result.failure)
    return shown


def markdown(results: list[Result]) -> str:
    """Machine, method and all results, as `docs/performance.md` has them."""
    rounds = ", ".join(sorted({str(r.rounds) for r in results}))
    lines = [f"- {key}: {value}" for key, value in machine().items()]
    lines += [
        f"- method: all runners of a table in one process, timed in turns, {rounds} rounds; times are those of one"
        " input. Every runner's output was compared with eager PyTorch's (error: 2-norm of the difference over the"
        " output's). ÷ best peer: best time over the best time of the fastest runner that is not this compiler.",
        "",
    ]
    columns = _columns(results)
    if columns == len(_HEADINGS):
        lines[-1:] = [
            "- memory: MiB over a process that has imported PyTorch, each runner in one of its own; peak: the most"
            " while it runs (weights, tensors, the runner's libraries), preparing: the most while it was made;"
            " planned: weights and tables packed by this compiler, tensors between kernels, scratch memory.",
            "",
        ]
    for result in results:
        lines += [f"### {_title(result)}", ""]
        if result.absent or result.failure:
            lines += [f"Not measured: {result.absent or result.failure}", ""]
            continue
        lines += ["| " + " | ".join(_HEADINGS[:columns]) + " |", "|---" + "|---:" * (columns - 1) + "|"]
        lines += ["| " + " | ".join(_row(m, result)[:columns]) + " |" for m in result.measurements]
        lines.append("")
    return "\n".join(lines)
