"""A validation report as text."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from haste_compiler.methods.macs import MacCount
from haste_compiler.methods.registry import names
from haste_compiler.text import as_text, numbers
from haste_compiler.validation.report import LayerReport, OutputComparison, Times, ValidationReport

_DISPENSABLE = ("error bound", "overhead", "skipped", "merged", "kept", "dense M", "dense ms", "spent M")


def render(report: ValidationReport) -> str:
    """The report as plain text: a summary, then the outputs, then the layers."""
    parts: list[Table | Text] = [_summary(report), _outputs(report.outputs), _layers(report.layers, report.images)]
    parts += [Text(f"Warning: {warning}") for warning in report.warnings]
    return as_text(*parts)


def _summary(report: ValidationReport) -> Table:
    title = f"Validation on {_plural(report.images, 'image')} in {_plural(report.batches, 'call')}"
    table = Table("", "", title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="", show_header=False)
    table.add_row("relative error", f"{report.max_rel_error:.2e} (largest of outputs and batches)")
    if report.agreement is not None:
        table.add_row("top-1 agreement", _percent(report.agreement))
    if report.accuracy is not None:
        found = report.accuracy
        lost = f"{(found.original - found.compiled) * 100:+.2f} points lost, {_plural(found.images, 'label')}"
        table.add_row("accuracy", f"{_percent(found.compiled)}, original {_percent(found.original)} ({lost})")
    macs = report.macs
    spent, dense = (_millions(count / report.images) for count in (macs.spent, macs.dense))
    table.add_row("multiply-adds", f"{spent} M of {dense} M dense, for one image")
    table.add_row("net reduction", _percent(report.mac_reduction))
    table.add_row("overhead", _overheads(macs))
    energy = report.energy
    if energy.compiled:
        less = ", ".join(
            f"{dense / energy.compiled:.1f} × less than {name}"
            for name, dense in (("float32", energy.float32), ("float16", energy.float16))
        )
        table.add_row("energy of products", f"{energy.compiled:.3g} µJ an image at 7 nm, without memory ({less})")
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
    headings = ("", "", "max abs", "relative", "worst batch", "top-1", "top-5")
    rows = [
        [
            output.name,
            output.kind,
            *(f"{error:.2e}" for error in (output.max_abs_error, output.rel_error, output.worst_rel_error)),
            _percent(output.agreement),
            _percent(output.top5_agreement),
        ]
        for output in outputs
    ]
    return numbers("Outputs", headings, rows, 2, ("top-5", "max abs", "relative"))


def _layers(layers: tuple[LayerReport, ...], images: int) -> Table:
    timed = any(layer.seconds is not None for layer in layers)
    headings = ["", "", "dense M", "spent M", "net saved", "overhead", "kept", "merged", "skipped", "error bound"]
    headings += ["ms", "dense ms"] if timed else []
    rows = []
    for layer in layers:
        macs = layer.macs
        taken = layer.kind in names()
        overhead = macs.overhead / macs.dense if macs.dense and taken else None
        kind = layer.kind if layer.arithmetic == "float32" else f"{layer.kind} {layer.arithmetic}"
        row = [layer.name, kind, _millions(macs.dense / images), _millions(macs.spent / images)]
        row += [_percent(macs.reduction) if taken else "", _percent(overhead)]
        channels = layer.channels
        for count in (channels.kept, channels.merged, channels.skipped) if channels else (None,) * 3:
            row.append("" if count is None or channels is None else _percent(channels.share(count)))
        row.append("" if layer.error_bound is None else f"{layer.error_bound:.2e}")
        if timed:
            row += [_milliseconds(layer.seconds), _milliseconds(layer.dense_seconds)]
        rows.append(row)
    return numbers("Layers (multiply-adds for one image)", headings, rows, 2, _DISPENSABLE)


def _percent(part: float | None) -> str:
    return "" if part is None else f"{part * 100:.1f} %"


def _millions(count: float) -> str:
    return f"{count / 1e6:,.2f}"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.3f}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
