"""``haste stream``."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from haste_compiler.cli.networks import NetworkSource
from haste_compiler.cli.options import (
    COMPILE_OPTIONS,
    NETWORK_OPTIONS,
    compile_options,
    gather,
    network_options,
    refuse_options,
)
from haste_compiler.cli.output import emit, json_option, note
from haste_compiler.cli.parameter_types import SIZE
from haste_compiler.cli.video import VideoSource
from haste_compiler.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from haste_compiler.runtime.stream import Stream

_OF_STREAMS = ("tolerance",)
"""Parameters of this command's own that a method has too."""

Call = Callable[["Tensor"], Any]


@dataclass(frozen=True)
class _Frames:
    """How frames are computed.

    Attributes:
        tolerance, refresh: of the stream.
        size: of a frame, height and width; None: as the network is known to take it.
        compare: whether the network computes every frame as a whole, too.
    """

    tolerance: float
    refresh: int | None
    size: tuple[int, int] | None
    compare: bool


@dataclass(frozen=True)
class _Network:
    """What streams are made of.

    Attributes:
        name: as it was asked for.
        compiled: the network, compiled or loaded.
        whole: what computes a frame as a whole.
        shape: of a frame, (1, 3, H, W).
    """

    name: str
    compiled: Any
    whole: Call
    shape: tuple[int, ...]


@dataclass
class _Course:
    """What was measured.

    Attributes:
        seconds: of each frame, by the stream.
        whole: the same by the network that computes all of it; empty: it wasn't asked.
        errors: of the stream's outputs, by 2-norms, over those of the whole network; the largest of several outputs'.
    """

    seconds: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)


@click.command(short_help="Compute of a video's frames what changed.")
@network_options(metavar="FILE.haste|MODEL")
@click.argument("video", metavar="VIDEO")
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=0.05,
    show_default=True,
    help="How far what a tile reads may move before it is computed anew, over its average size; 0: to the bit.",
)
@click.option("--refresh", type=click.IntRange(1), help="Compute every so many-th frame as a whole; default: never.")
@click.option("--size", type=SIZE, help="Of a frame, such as 224x288, height first; default: as the network takes it.")
@click.option("--frames", "limit", type=click.IntRange(1), help="Most frames; default: all, of a camera until Ctrl-C.")
@click.option(
    "--normalize/--no-normalize",
    default=True,
    help="Pixels as torchvision's networks want them, or from 0 to 1.  [default: normalize]",
)
@click.option("--compare", is_flag=True, help="Let the dense network compute every frame too, in turns.")
@compile_options(without=_OF_STREAMS)
@json_option
@gather("source", VideoSource, ("video", "limit", "normalize"))
@gather("wanted", _Frames, ("tolerance", "refresh", "size", "compare"))
def stream(network: NetworkSource, source: VideoSource, wanted: _Frames, how: dict[str, Any], as_json: bool) -> None:
    """Run MODEL, or a network that was saved with --streams, on the frames of VIDEO, computing what changed.

    VIDEO is a video file (by PyAV: pip install "haste-compiler[video]"), a folder of images in the order of their
    names, or a camera's number. Frames are scaled, and their middle is cut to the network's size.

    \b
    Examples:
      haste stream torchvision:resnet18 street.mp4 --size 224x288 --tolerance 0.2 --compare
      haste compile torchvision:resnet18 --streams -o resnet18.haste
      haste stream resnet18.haste 0
    """
    from haste_compiler.validation.timing import use_threads

    made = _saved(network, wanted.size) if _is_saved(network.model) else _compiled(network, wanted, how)
    with use_threads(made.compiled.threads):
        running = made.compiled.stream(tolerance=wanted.tolerance, refresh=wanted.refresh)
        course = _run(running, made, source, wanted)
    if not course.seconds:
        raise InputError(f"{source.video} has no frames")
    data = {
        "model": made.name,
        "video": source.video,
        "shape": list(made.shape),
        "threads": made.compiled.threads,
        "tolerance": wanted.tolerance,
        "refresh": wanted.refresh,
        **_measured(running, course),
    }
    emit(as_json, data, _text(data))


def _is_saved(model: str) -> bool:
    return model.endswith(".haste")


def _saved(network: NetworkSource, size: tuple[int, int] | None) -> _Network:
    import haste_compiler

    refuse_options(
        f"{network.model} is compiled already",
        (*NETWORK_OPTIONS, *(name for name in COMPILE_OPTIONS if name not in _OF_STREAMS)),
    )
    if not Path(network.model).is_file():
        raise InputError(f"there is no file {network.model}")
    loaded = haste_compiler.load(network.model)
    fitting = [shapes[0] for shapes in loaded.shapes if len(shapes) == 1 and size in (None, tuple(shapes[0][2:]))]
    if not fitting:
        known = "; ".join(", ".join("x".join(map(str, shape)) for shape in shapes) for shapes in loaded.shapes)
        raise InputError(f"{network.model} was saved for inputs of shape {known}, and for none of --size")
    return _Network(network.model, loaded, loaded, _checked(fitting[0]))


def _compiled(network: NetworkSource, wanted: _Frames, how: dict[str, Any]) -> _Network:
    import haste_compiler

    loaded = network.load()
    if wanted.size is not None:
        refuse_options("--size says what a frame is", ("inputs",))
    shape = (1, 3, *wanted.size) if wanted.size is not None else tuple(loaded.example[0].shape)
    compiled = haste_compiler.compile(loaded.model, **how)
    return _Network(loaded.name, compiled, compiled.dense, _checked(shape))


def _checked(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 4 or shape[:2] != (1, 3):
        raise InputError(f"a frame is 1x3xHxW, and the network takes {'x'.join(map(str, shape))}")
    return shape


def _run(running: Stream, made: _Network, source: VideoSource, wanted: _Frames) -> _Course:
    """Run the stream on all frames; a camera's end when it is interrupted."""
    from haste_compiler.progress import endless, progress

    course, total = _Course(), source.count()
    interrupted = contextlib.suppress(KeyboardInterrupt) if source.is_camera else contextlib.nullcontext()
    with interrupted, contextlib.ExitStack() as shown:
        on_terminal = sys.stderr.isatty()
        if total is None:
            step = shown.enter_context(endless("streaming", on_terminal))
            tell = lambda text, part: step(text, "")  # noqa: E731
        else:
            tell = shown.enter_context(progress("streaming", on_terminal))
        for number, frame in enumerate(source.frames((made.shape[2], made.shape[3]))):
            if number == 0:
                note(f"compiling {made.name} for frames of {'x'.join(map(str, made.shape))}")
                _warm_up(running, made, frame, wanted.compare)
            _one_frame(course, running, made, frame, wanted.compare)
            tell(f"frame {number + 1}, {1 / course.seconds[-1]:.1f} a second", (number + 1) / (total or 1))
    return course


def _warm_up(running: Stream, made: _Network, frame: Tensor, compare: bool) -> None:
    """Make the code, and begin anew."""
    running(frame)
    running.reset()
    if compare:
        made.whole(frame)


def _one_frame(course: _Course, running: Stream, made: _Network, frame: Tensor, compare: bool) -> None:
    from haste_compiler.validation.comparison import relative_error
    from haste_compiler.validation.running import run

    start = time.perf_counter()
    outputs = running(frame)
    course.seconds.append(time.perf_counter() - start)
    if compare:
        start = time.perf_counter()
        whole = made.whole(frame)
        course.whole.append(time.perf_counter() - start)
        course.errors.append(relative_error(run(lambda _: whole, (frame,)), run(lambda _: outputs, (frame,))))


def _measured(running: Stream, course: _Course) -> dict[str, Any]:
    stats = running.stats()
    first, *later = course.seconds
    found: dict[str, Any] = {
        "frames": stats.frames,
        "plain_frames": stats.plain,
        "first_frame": first,
        "times": _times(later or [first]),
        "work": stats.work,
        "last_work": stats.last_work,
        "kept_bytes": running.kept_bytes,
        "layers": [
            {
                "name": name,
                "side": layer.side,
                "tiles": layer.tiles,
                "macs": layer.macs,
                "computed": layer.computed,
                "work": layer.computed / layer.tiles / stats.frames,
                "last_work": layer.last / layer.tiles,
            }
            for name, layer in stats.layers.items()
        ],
    }
    if course.whole:
        dense = _times(course.whole[1:] or course.whole)
        found["dense"] = {
            "times": dense,
            "first_frame": course.whole[0],
            "time": found["times"]["mean"] / dense["mean"],
            "mean_error": statistics.fmean(course.errors),
            "largest_error": max(course.errors),
        }
    return found


def _times(seconds: list[float]) -> dict[str, float]:
    mean = statistics.fmean(seconds)
    return {
        "best": min(seconds),
        "median": statistics.median(seconds),
        "mean": mean,
        "frames_per_second": 1 / mean,
    }


def _text(data: dict[str, Any]) -> str:
    from haste_compiler.text import as_text, numbers

    def said(times: dict[str, float], first: float) -> str:
        best, median, rate = times["best"] * 1e3, times["median"] * 1e3, times["frames_per_second"]
        return f"best {best:.2f} ms, median {median:.2f} ms, {rate:.1f} frames a second; the first {first * 1e3:.2f} ms"

    size = "x".join(map(str, data["shape"][1:]))
    plain = f"; {data['plain_frames']} frames by the network itself" if data["plain_frames"] else ""
    rows = [
        ("stream", said(data["times"], data["first_frame"])),
        ("work", f"{data['work']:.1%} of the multiply-adds, {data['last_work']:.1%} in the last frame{plain}"),
        ("keeps", f"{data['kept_bytes'] / 1e6:.1f} MB"),
    ]
    if "dense" in data:
        dense = data["dense"]
        rows[1:1] = [
            ("dense", said(dense["times"], dense["first_frame"])),
            ("time", f"{dense['time']:.2f} of dense"),
            ("error", f"{dense['mean_error']:.4f} on average, {dense['largest_error']:.4f} at most"),
        ]
    head = f"{data['frames']} frames of {size}, tolerance {data['tolerance']:g}, threads: {data['threads']}"
    table = numbers(
        "Layers",
        ("", "tiles", "of", "million multiply-adds", "computed", "in the last frame"),
        [
            (
                layer["name"],
                str(layer["tiles"]),
                f"{layer['side']}x{layer['side']}",
                f"{layer['macs'] / 1e6:.1f}",
                f"{layer['work']:.1%}",
                f"{layer['last_work']:.1%}",
            )
            for layer in data["layers"]
        ],
        left=1,
        dispensable=("of", "tiles"),
    )
    return "\n".join([head, *(f"  {name:<8}{value}" for name, value in rows), "", as_text(table)])
