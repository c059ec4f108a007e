"""Show measurements: tables in Markdown, a bar chart, a dictionary for JSON."""

import dataclasses
import importlib.metadata
import math
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks import cases, runners
from benchmarks.measure import MAX_DENSE_ERROR, Measurement

_PACKAGES = ("haste-compiler", "torch", "apache-tvm", "onnxruntime", "openvino")
_VECTOR_FLAGS = ("avx512f", "avx2", "asimd", "neon")


def plain(value: Any) -> Any:
    """NaN as None, as JSON has it, in dictionaries and lists too."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


@dataclasses.dataclass(frozen=True)
class Result:
    """All measurements of one case with one batch and number of threads.

    Attributes:
        case: its name.
        batch: images a call.
        threads: of every runner.
        measurements: one a runner.
        absent: what the case needs and this machine does not have; nothing was measured.
        failure: what went wrong, so that nothing was measured.
    """

    case: str
    batch: int
    threads: int
    measurements: list[Measurement]
    absent: str = ""
    failure: str = ""

    def best_peer(self) -> Measurement | None:
        """The fastest runner that is not this compiler and computes the same as eager PyTorch; None where none ran."""
        ran = [m for m in self.measurements if m.runner in runners.PEERS and not m.failure and not math.isnan(m.best)]
        return min(ran, key=lambda m: m.best, default=None)

    def ratio(self, m: Measurement) -> float:
        """A runner's best time over the best peer's; NaN where either is not known."""
        best = self.best_peer()
        return math.nan if best is None else m.best / best.best

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it: what was not measured is None."""
        result: dict[str, Any] = plain(dataclasses.asdict(self))
        return result

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Result":
        """What `to_dict` wrote."""
        measured: list[dict[str, Any]] = stored["measurements"]
        known: list[Any] = [{k: math.nan if v is None else v for k, v in m.items()} for m in measured]
        return cls(**{**stored, "measurements": [Measurement(**m) for m in known]})


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


_METHOD = (
    "all runners with the same batch and threads in one process, which may use as many cores as it has threads; timed"
    " in turns, in another order each round. Times are those of one call. ÷ best peer: best time over that of the"
    " fastest runner of the same process that is not this compiler and computes what eager PyTorch does: relative error"
    f" (2-norm of the outputs' difference over the outputs') of at most {MAX_DENSE_ERROR:g}. 1→2: how many times as"
    " fast with two threads as with one. First: the turn's first call, right after another runner's work. Agreement:"
    " images with eager PyTorch's class."
)
_MEMORY = (
    "MiB over a process that has imported PyTorch, each runner in one of its own; peak: the most while it runs"
    " (weights, tensors, the runner's libraries), preparing: the most while it was made; planned: weights and tables"
    " packed by this compiler, tensors between kernels, scratch memory."
)
_MEMORY_COLUMNS = ("peak MiB", "preparing", "planned")


def markdown(results: list[Result]) -> str:
    """Machine, method, how this compiler compares with the best peer, then all results."""
    lines = [f"- {key}: {value}" for key, value in machine().items()] + [f"- method: {_METHOD}"]
    if _with_memory(results):
        lines.append(f"- memory: {_MEMORY}")
    lines += ["", *_table(*_overview(results)), ""]
    for (case, batch), same in groupby(results, key=lambda r: (r.case, r.batch)):
        lines += [f"### {cases.TITLES[case]}; batch {batch}", "", *_details(list(same)), ""]
    return "\n".join(lines)


def _overview(results: list[Result]) -> tuple[list[str], list[list[str]]]:
    """Our best times over the best peer's: a row for each case, batch and number of threads."""
    names = [n for n in runners.OURS if any(m.runner == n and m.rounds for r in results for m in r.measurements)]
    rows = []
    for r in results:
        best = r.best_peer()
        if best is None:
            continue
        found = {m.runner: _number(r.ratio(m)) for m in r.measurements}
        row = [r.case, str(r.batch), str(r.threads), f"{runners.TITLES[best.runner]} {best.best:.2f} ms"]
        rows.append(row + [found.get(name, "") for name in names])
    titles = (runners.TITLES[name].removeprefix("haste-compiler, ") for name in names)
    return ["÷ best peer", "batch", "threads", "best peer", *titles], rows


def _details(results: list[Result]) -> list[str]:
    """The results of one case and batch: a row for each runner, columns for each number of threads.

    What isn't a time is the worst over the numbers of threads.
    """
    notes = [f"{_threads(r.threads)} not measured: {r.absent or r.failure}" for r in results if r.absent or r.failure]
    measured = [r for r in results if r.measurements]
    if not measured:
        return notes
    names = list(dict.fromkeys(m.runner for r in measured for m in r.measurements))
    found = [{m.runner: m for m in r.measurements} for r in measured]
    head = [""]
    for r in measured:
        head += [f"{_threads(r.threads)}: best ms", "median ms", "÷ best peer", "first ms"]
    scaling = {r.threads for r in measured} >= {1, 2}
    head += ["1→2"] * scaling + ["error", "agreement", "points lost", "prepare s", "file MiB"]
    memory = _with_memory(results)
    head += _MEMORY_COLUMNS if memory else ()
    rows = []
    for name in names:
        row = [runners.TITLES[name]]
        for r, by_name in zip(measured, found, strict=True):
            m = by_name.get(name, Measurement(name))
            row += [_number(m.best), _number(m.median), _number(r.ratio(m)), _number(m.first)]
            if m.failure:
                notes.append(f"{runners.TITLES[name]}, {_threads(r.threads)}: {m.failure}")
        if scaling:
            best = {r.threads: m.best for r in measured for m in r.measurements if m.runner == name}
            row.append(_number(best.get(1, math.nan) / best.get(2, math.nan)))
        ran = [by_name[name] for by_name in found if name in by_name]
        error, agreement = _most(m.error for m in ran), -_most(-m.agreement for m in ran)
        row += ["" if math.isnan(error) else f"{error:.1e}", "" if math.isnan(agreement) else f"{agreement:.1%}"]
        row += [_number(_most(m.lost for m in ran)), _number(_most(m.prepare for m in ran), 1)]
        row.append(_number(_most(m.size for m in ran), 1))
        if memory:
            row += [_number(_most(getattr(m, kind) for m in ran), 0) for kind in ("peak", "preparing", "planned")]
        rows.append(row)
    return [*_table(head, rows), *(line for note in notes for line in ("", note))]


def _most(values: Iterable[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def _with_memory(results: list[Result]) -> bool:
    return any(not math.isnan(m.peak) for r in results for m in r.measurements)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _number(value: float, digits: int = 2) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def plot(results: list[Result], path: Path) -> None:
    """Draw every runner's best time over the best peer's into a file, a panel for each case; nothing without peers."""
    from matplotlib.figure import Figure

    shown = [r for r in results if r.best_peer() is not None]
    names = [n for n in runners.TITLES if any(m.runner == n and m.rounds for r in shown for m in r.measurements)]
    panels = {case: list(same) for case, same in groupby(shown, key=lambda r: r.case)}
    if not panels:
        return
    figure = Figure(figsize=(10, 1 + 2.4 * len(panels)), layout="constrained")
    for axes, (case, same) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True):
        width = 0.85 / len(names)
        for i, name in enumerate(names):
            ratios = [next((r.ratio(m) for m in r.measurements if m.runner == name), math.nan) for r in same]
            places = [x + (i - (len(names) - 1) / 2) * width for x in range(len(same))]
            axes.bar(places, ratios, width, label=runners.TITLES[name], color=f"C{i}")
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_xticks(range(len(same)), [f"batch {r.batch}\n{_threads(r.threads)}" for r in same])
        axes.set_title(cases.TITLES[case], loc="left", fontsize="medium")
        axes.set_ylabel("time ÷ best peer")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize="small")
    figure.savefig(path)
