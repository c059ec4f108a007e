"""Show measurements: tables in Markdown, a bar chart, a dictionary for JSON."""

import dataclasses
import importlib.metadata
import math
import os
import platform
from collections.abc import Callable, Container, Iterable
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks import cases, competitors
from benchmarks.measure import MAX_DENSE_ERROR, Measurement

_PACKAGES = ("haste-compiler", "torch", "apache-tvm", "onnxruntime", "openvino", "nncf", "torchao")
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
        calibrated: what the int8 peers were calibrated on; empty where there were none.
    """

    case: str
    batch: int
    threads: int
    measurements: list[Measurement]
    absent: str = ""
    failure: str = ""
    calibrated: str = ""

    def best_peer(self) -> Measurement | None:
        """The fastest runner that is not this compiler and computes the same as eager PyTorch; None where none ran."""
        return self._fastest(competitors.PEERS)

    def best_int8_peer(self) -> Measurement | None:
        """The fastest int8 runner that is not this compiler, whatever its error; None where none ran."""
        return self._fastest(competitors.INT8_PEERS)

    def _fastest(self, names: Container[str]) -> Measurement | None:
        ran = [m for m in self.measurements if m.runner in names and not m.failure and not math.isnan(m.best)]
        return min(ran, key=lambda m: m.best, default=None)

    def ratio(self, m: Measurement) -> float:
        """A runner's best time over the best peer's; NaN where either is not known."""
        return _over(m, self.best_peer())

    def int8_ratio(self, m: Measurement) -> float:
        """An int8 runner's best time over the best int8 peer's; NaN for others, and where either is not known."""
        return _over(m, self.best_int8_peer()) if m.runner in competitors.INT8 else math.nan

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


def _over(m: Measurement, best: Measurement | None) -> float:
    return math.nan if best is None else m.best / best.best


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
    f" (2-norm of the outputs' difference over the outputs') of at most {MAX_DENSE_ERROR:g}, or four times what PyTorch"
    " differs by from itself, images channels_last. 1→2: how many times as fast with two threads as with one. First:"
    " the turn's first call, right after another runner's work. Agreement: images with eager PyTorch's class."
)
_INT8 = (
    "networks quantized after training by NNCF, ONNX Runtime and PyTorch (PT2E), calibrated on the same images; this"
    " compiler's int8 needs none. ÷ best int8 peer: best time over that of the fastest of them, whatever its error."
    " Error: of the worst call; overall: of all calls together."
)
_MEMORY = (
    "MiB over a process that has imported PyTorch, each runner in one of its own; peak: the most while it runs"
    " (weights, tensors, the runner's libraries), preparing: the most while it was made; planned: weights and tables"
    " packed by this compiler, tensors between kernels, scratch memory."
)


def markdown(results: list[Result]) -> str:
    """Machine, method, how this compiler compares with the best peer, then all results."""
    lines = [f"- {key}: {value}" for key, value in machine().items()] + [f"- method: {_METHOD}"]
    if _any(results, "peak"):
        lines.append(f"- memory: {_MEMORY}")
    if _with_int8(results):
        lines.append(f"- int8: {_INT8}")
    lines += ["", *_table(*_overview(results)), ""]
    if _with_int8(results):
        lines += [*_table(*_int8_overview(results)), ""]
    for (case, batch), same in groupby(results, key=lambda r: (r.case, r.batch)):
        lines += [f"### {cases.TITLES[case]}; batch {batch}", "", *_details(list(same)), ""]
    return "\n".join(lines)


def _overview(results: list[Result]) -> tuple[list[str], list[list[str]]]:
    """Our best times over the best peer's: a row for each case, batch and number of threads."""
    names = [n for n in competitors.OURS if any(m.runner == n and m.rounds for r in results for m in r.measurements)]
    rows = []
    for r in results:
        best = r.best_peer()
        if best is None:
            continue
        found = {m.runner: _number(r.ratio(m)) for m in r.measurements}
        rows.append([*_place(r, best), *(found.get(name, "") for name in names)])
    titles = (competitors.TITLES[name].removeprefix("haste-compiler, ") for name in names)
    return ["÷ best peer", "batch", "threads", "best peer", *titles], rows


def _int8_overview(results: list[Result]) -> tuple[list[str], list[list[str]]]:
    """Our int8 beside the fastest int8 peer, with the errors of both."""
    rows = []
    for r in results:
        best = r.best_int8_peer()
        if best is None:
            continue
        ours = next((m for m in r.measurements if m.runner == "int8"), Measurement("int8"))
        beside = [_number(r.ratio(best)), *_errors(best), _number(r.int8_ratio(ours)), *_errors(ours)]
        rows.append([*_place(r, best), *beside])
    quality = ("overall error", "agreement")
    head = ["÷ best int8 peer", "batch", "threads", "best int8 peer", "÷ best peer", *quality, "int8", *quality]
    return head, rows


def _place(r: Result, best: Measurement) -> list[str]:
    return [r.case, str(r.batch), str(r.threads), f"{competitors.TITLES[best.runner]} {best.best:.2f} ms"]


def _errors(m: Measurement) -> list[str]:
    return [_error(m.overall), _share(m.agreement)]


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
    int8 = ["÷ best int8 peer"] if _with_int8(measured) else []
    head = [""]
    for r in measured:
        head += [f"{_threads(r.threads)}: best ms", "median ms", "÷ best peer", *int8, "first ms"]
    scaling = {r.threads for r in measured} >= {1, 2}
    columns = [column for column in _COLUMNS if column.field in _ALWAYS or _any(measured, column.field)]
    head += ["1→2"] * scaling + [column.title for column in columns]
    rows = []
    for name in names:
        row = [competitors.TITLES[name]]
        for r, by_name in zip(measured, found, strict=True):
            m = by_name.get(name, Measurement(name))
            ratios = [r.ratio(m), r.int8_ratio(m)][: 1 + len(int8)]
            row += [_number(value) for value in (m.best, m.median, *ratios, m.first)]
            if m.failure:
                notes.append(f"{competitors.TITLES[name]}, {_threads(r.threads)}: {m.failure}")
        if scaling:
            best = {r.threads: m.best for r in measured for m in r.measurements if m.runner == name}
            row.append(_number(best.get(1, math.nan) / best.get(2, math.nan)))
        ran = [by_name[name] for by_name in found if name in by_name]
        row += [column.write(column.worst(getattr(m, column.field) for m in ran)) for column in columns]
        rows.append(row)
    notes += dict.fromkeys(f"Int8 peers were calibrated on {r.calibrated}." for r in measured if r.calibrated)
    return [*_table(head, rows), *(line for note in notes for line in ("", note))]


def _most(values: Iterable[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def _least(values: Iterable[float]) -> float:
    return min((value for value in values if not math.isnan(value)), default=math.nan)


def _any(results: list[Result], field: str) -> bool:
    return any(not math.isnan(getattr(m, field)) for r in results for m in r.measurements)


def _with_int8(results: list[Result]) -> bool:
    return any(m.runner in competitors.INT8 for r in results for m in r.measurements)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _number(value: float, digits: int = 2) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _error(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1e}"


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1%}"


@dataclasses.dataclass(frozen=True)
class _Column:
    """Of what isn't a time.

    Attributes:
        title: its head.
        field: of a measurement.
        write: a value.
        worst: of the values of several numbers of threads.
    """

    title: str
    field: str
    write: Callable[[float], str] = _number
    worst: Callable[[Iterable[float]], float] = _most


_COLUMNS = (
    _Column("error", "error", _error),
    _Column("overall error", "overall", _error),
    _Column("agreement", "agreement", _share, _least),
    _Column("accuracy", "right", _share, _least),
    _Column("points lost", "lost"),
    _Column("PSNR dB", "psnr", partial(_number, digits=1), _least),
    _Column("prepare s", "prepare", partial(_number, digits=1)),
    _Column("file MiB", "size", partial(_number, digits=1)),
    _Column("peak MiB", "peak", partial(_number, digits=0)),
    _Column("preparing", "preparing", partial(_number, digits=0)),
    _Column("planned", "planned", partial(_number, digits=0)),
)
_ALWAYS = ("error", "agreement", "lost", "prepare", "size")


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def plot(results: list[Result], path: Path) -> None:
    """Draw every runner's best time over the best peer's into a file, a panel for each case; nothing without peers."""
    from matplotlib.figure import Figure

    shown = [r for r in results if r.best_peer() is not None]
    names = [n for n in competitors.TITLES if any(m.runner == n and m.rounds for r in shown for m in r.measurements)]
    panels = {case: list(same) for case, same in groupby(shown, key=lambda r: r.case)}
    if not panels:
        return
    figure = Figure(figsize=(10, 1 + 2.4 * len(panels)), layout="constrained")
    for axes, (case, same) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True):
        width = 0.85 / len(names)
        for i, name in enumerate(names):
            ratios = [next((r.ratio(m) for m in r.measurements if m.runner == name), math.nan) for r in same]
            places = [x + (i - (len(names) - 1) / 2) * width for x in range(len(same))]
            axes.bar(places, ratios, width, label=competitors.TITLES[name], color=f"C{i}")
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_xticks(range(len(same)), [f"batch {r.batch}\n{_threads(r.threads)}" for r in same])
        axes.set_title(cases.TITLES[case], loc="left", fontsize="medium")
        axes.set_ylabel("time ÷ best peer")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize="small")
    figure.savefig(path)
