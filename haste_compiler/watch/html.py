"""The texts of the page: numbers and predictions as HTML, escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from haste_compiler.watch.following import FrameLook
from haste_compiler.watch.network import Look
from haste_compiler.watch.prediction import Prediction

STYLE = """
:host { color: inherit; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { padding: 3px 8px 3px 0; text-align: right; font-weight: normal; }
th:first-child, td:first-child { text-align: left; overflow-wrap: break-word; min-width: 4em; }
th { opacity: 0.75; }
.bar { height: 7px; background: var(--bar, #0072b2); min-width: 1px; }
.bar + .bar { background: #e69f00; margin-top: 2px; }
.bars { width: 40%; }
.error { border-left: 4px solid #d55e00; padding: 6px 10px; }
.note { opacity: 0.8; }
@media (prefers-color-scheme: dark) { .bar { --bar: #56b4e9; } }
"""
"""Of what these texts are made of; the bars are told apart with any colour vision (Okabe and Ito's colours)."""


def error(text: str) -> str:
    """A message that something can't be done."""
    return f'<div class="error" role="alert">{escape(text)}</div>'


def note(text: str) -> str:
    """A message of what is being done."""
    return f'<div class="note">{escape(text)}</div>'


def numbers(look: Look, layer: str) -> str:
    """What a look measured and counted; of the chosen layer too, if there is one."""
    rows = [
        (
            "milliseconds",
            _ms(look.seconds),
            _ms(look.dense_seconds),
            f"{look.dense_seconds / look.seconds:.2f}× as fast",
        ),
        (
            "million multiply-adds",
            f"{look.macs.spent / 1e6:.1f}",
            f"{look.macs.dense / 1e6:.1f}",
            f"{look.macs.reduction:.1%} saved",
        ),
        ("difference of outputs", f"{look.prediction.error:.4f}", "0", ""),
    ]
    if look.kept is not None:
        rows.append(("kept, all layers", f"{look.kept:.1%}", "100%", ""))
    stats = look.stats.get(layer)
    if stats is not None and stats.tally is not None:
        kept = stats.tally.share(stats.tally.kept)
        rows.append((f"{stats.tally.of} kept, {layer}", f"{kept:.1%}", "100%", f"{stats.macs.reduction:.1%} saved"))
    return _table(("", "this", "dense", ""), rows)


def frame(look: FrameLook, seconds: float, dense_seconds: float) -> str:
    """What a stream did with a frame, and the mean seconds of its frames so far."""
    rows = [
        (
            "frames a second",
            f"{1 / seconds:.1f}",
            f"{1 / dense_seconds:.1f}",
            f"{dense_seconds / seconds:.2f}× as fast",
        ),
        ("milliseconds", _ms(look.seconds), _ms(look.dense_seconds), "this frame"),
        ("tiles computed", f"{look.computed}", f"{look.tiles}", ""),
        ("multiply-adds of tiles", f"{look.work:.1%}", "100%", ""),
        ("difference of outputs", f"{look.prediction.error:.4f}", "0", ""),
    ]
    return _table(("", "stream", "dense", ""), rows)


def prediction(found: Prediction) -> str:
    """The first classes with their shares; or what the outputs are."""
    if not found.ranks:
        shapes = ", ".join("×".join(map(str, shape)) for shape in found.shapes)
        return note(f"The network returns {shapes}: no class scores.")
    rows = "".join(
        f'<tr><td>{escape(rank.name)}</td><td class="bars">{_bar(rank.share)}{_bar(rank.dense_share)}</td>'
        f"<td>{rank.share:.1%}</td><td>{rank.dense_share:.1%}</td></tr>"
        for rank in found.ranks
    )
    agreed = "the dense network's class" if found.agrees else "another class than the dense network's"
    head = "<tr><th>class</th><th></th><th>this</th><th>dense</th></tr>"
    return f"<table>{head}{rows}</table>{note(f'The first class is {agreed}.')}"


def _bar(share: float) -> str:
    return f'<div class="bar" style="width: {share:.1%}"></div>'


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
