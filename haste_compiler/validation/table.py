"""A validation report as text."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from haste_compiler.methods.macs import MacCount
from haste_compiler.methods.registry import names
from haste_compiler.validation.report import LayerReport, OutputComparison, Times, ValidationReport


def render(report: ValidationReport) -> str:
    """The report as plain text: a summary, then the outputs, then the layers. No colours, no line is wrapped."""
    parts: list[Table | Text] = [_summary(report), _outputs(report.outputs), _layers(report.layers)]
    parts += [Text(f"Warning: {warning}") for warning in report.warnings]
    console = Console(file=io.StringIO(), width=1000, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(Group(*parts))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).strip("\n")


def _summary(report: ValidationReport) -> Table:
    table = _table(f"Validation on {_plural(report.images, 'image')} in {_plural(report.batches, 'call')}", (), 0)
    table.add_column()
    table.add_column()
    table.show_header = False
    table.add_row("relative error", f"{report.max_rel_error:.2e} (largest of outputs and batches)")
    if report.agreement is not None:
        table.add_row("top-1 agreement", _percent(report.agreement))
    if report.accuracy is not None:
        found = report.accuracy
        lost = f"{(found.original - found.compiled) * 100:+.2f} points lost, {_plural(found.images, 'label')}"
        table.add_row("accuracy", f"{_percent(found.compiled)}, original {_percent(found.original)} ({lost})")
    macs = report.macs
    table.add_row("multiply-adds", f"{_millions(macs.spent)} M of {_millions(macs.dense)} M dense")
    table.add_row("net reduction", _percent(report.mac_reduction))
    table.add_row("overhead", _overheads(macs))
    if report.times is not None:
        for row in _times(report.times):
            table.add_row(*row)
    return table


def _times(times: Times) -> Iterable[tuple[str, str]]:
    title = f"time, {_plural(times.threads, 'thread')}, {_plural(times.rounds, 'round')}"
    for name, timing in (("original", times.original), ("dense", times.dense), ("compiled", times.compiled)):
        yield title, f"{name}: best {timing.best * 1e3:.2f} ms, median {timing.median * 1e3:.2f} ms"
        title = ""
    yield "speedup over dense", f"{times.speedup:.2f} (best {times.best_speedup:.2f})"
    yield "speedup over original", f"{times.original_speedup:.2f}"


def _overheads(macs: MacCount) -> str:
    spent = macs.overheads.items()
    shares = [f"{name.replace('_', ' ')} {_percent(count / macs.dense)}" for name, count in spent if count]
    return ", ".join(shares) + " of the dense multiply-adds" if shares else "none"


def _outputs(outputs: tuple[OutputComparison, ...]) -> Table:
    table = _table("Outputs", ("", "", "max abs", "relative", "worst batch", "top-1", "top-5"), 2)
    for output in outputs:
        errors = (output.max_abs_error, output.rel_error, output.worst_rel_error)
        table.add_row(
            output.name,
            output.kind,
            *(f"{error:.2e}" for error in errors),
            _percent(output.agreement),
            _percent(output.top5_agreement),
        )
    return table


def _layers(layers: tuple[LayerReport, ...]) -> Table:
    timed = any(layer.seconds is not None for layer in layers)
    headings = ["", "", "dense M", "spent M", "net saved", "overhead", "kept", "merged", "skipped", "error bound"]
    table = _table("Layers", [*headings, *(["ms", "dense ms"] if timed else [])], 2)
    for layer in layers:
        macs = layer.macs
        taken = layer.kind in names()
        overhead = macs.overhead / macs.dense if macs.dense and taken else None
        row = [layer.name, layer.kind, _millions(macs.dense), _millions(macs.spent)]
        row += [_percent(macs.reduction) if taken else "", _percent(overhead)]
        channels = layer.channels
        for count in (channels.kept, channels.merged, channels.skipped) if channels else (None,) * 3:
            row.append("" if count is None or channels is None else _percent(count / max(channels.total, 1)))
        row.append("" if layer.error_bound is None else f"{layer.error_bound:.2e}")
        if timed:
            row += [_milliseconds(layer.seconds), _milliseconds(layer.dense_seconds)]
        table.add_row(*row)
    return table


def _table(title: str, headings: Iterable[str], left: int) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="", header_style="")
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="left" if position < left else "right", no_wrap=True)
    return table


def _percent(part: float | None) -> str:
    return "" if part is None else f"{part * 100:.1f} %"


def _millions(count: int) -> str:
    return f"{count / 1e6:,.2f}"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.3f}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
