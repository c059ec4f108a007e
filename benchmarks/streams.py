"""Streams beside networks that compute every frame: `python -m benchmarks.streams`.

Frames of a street from a camera that stands still, and from one that moves. Every runner computes each frame in turn;
the video is played several times, each time by a new stream, and a frame's time is the least of all.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import runners
from benchmarks.progress import tick
from benchmarks.report import machine
from benchmarks.runners import Make, Runner
from benchmarks.streams_picture import draw, scene
from haste_compiler import HasteConfig, compile
from haste_compiler.errors import first_line
from haste_compiler.runtime.stream import Stream
from haste_compiler.validation.timing import no_garbage_collection
from tests import vision, zoo

CAMERAS = ("static", "moving")


@dataclass(frozen=True)
class Case:
    """A network on a camera's frames.

    Attributes:
        load: the network, in evaluation mode.
        size: of a frame, height and width.
        tolerances: of its streams.
    """

    load: Callable[[], nn.Module]
    size: tuple[int, int]
    tolerances: tuple[float, ...]


CASES = {
    "resnet18": Case(lambda: zoo.trained("resnet18"), (224, 288), (0.1, 0.2)),
    "srvgg": Case(lambda: vision.build("srvgg"), (144, 192), (0.1, 0.15)),
    "ocrdet": Case(lambda: vision.build("ocr_detection"), (480, 640), (0.02, 0.1)),
    "efflite0": Case(lambda: vision.build("efficientnet_lite0"), (224, 288), (0.1, 0.2)),
}

PEERS: dict[str, Make] = {"ONNX Runtime": runners.onnx_runtime, "OpenVINO": runners.openvino}


@dataclass(frozen=True)
class Row:
    """How one runner did on a camera's frames but the first.

    Attributes:
        network, camera, runner: their names.
        mean, median: milliseconds of a frame.
        ratio: mean over that of the dense compile.
        first: milliseconds of the first frame.
        work: part of the multiply-adds that was computed.
        error, worst: of the outputs, by 2-norms, over those of the dense compile; on average, and largest.
        plain: frames that the network itself computed, as the camera moved.
        kept: MB that a stream keeps.
        failure: why there are no numbers.
    """

    network: str
    camera: str
    runner: str
    mean: float = 0.0
    median: float = 0.0
    ratio: float = 0.0
    first: float = 0.0
    work: float = 1.0
    error: float = 0.0
    worst: float = 0.0
    plain: int = 0
    kept: float = 0.0
    failure: str = ""


def frames(network: str, camera: str, count: int) -> list[Tensor]:
    """The first frames (1, 3, H, W) of a camera, as a network takes them."""
    pictures = vision.real_networks().video(f"{camera}_camera")[:count]
    module = zoo.trained_module()
    if network == "resnet18" and module is not None:
        pixels = module.normalize(pictures, network)
    else:
        pixels = vision.real_networks().prepare(network, pictures)
    resized = F.interpolate(pixels, CASES[network].size, mode="bilinear", antialias=True, align_corners=False)
    return [frame.contiguous() for frame in resized.split(1)]


def measure(network: str, camera: str, video: Sequence[Tensor], args: argparse.Namespace) -> list[Row]:
    """Play a video by all runners, as the command line says."""
    case, model, threads, passes = CASES[network], CASES[network].load(), args.threads, args.passes
    tick(f"{network}: compiling")
    dense = compile(model, (video[0],), threads=threads, config=HasteConfig(enabled=False))
    ready: dict[str, Runner] = {"dense": Runner(dense)}
    compiled = dense
    if args.int8:
        compiled = compile(model, (video[0],), threads=threads, precision="int8")
        ready["int8"] = Runner(compiled)
    failed = []
    for name, make in PEERS.items() if not args.no_peers else ():
        tick(f"{network}: preparing {name}")
        try:
            ready[name] = make(model, video[0], threads)
        except Exception as error:  # a peer that is absent, or can't take the network, must not stop the others
            failed.append(Row(network, camera, name, failure=first_line(error)[:200]))
    kind = "int8 stream" if args.int8 else "stream"
    names = {f"{kind}, {tolerance}": tolerance for tolerance in case.tolerances}
    seconds: dict[str, list[float]] = {name: [float("inf")] * len(video) for name in (*ready, *names)}
    errors: dict[str, list[float]] = {name: [] for name in names}
    streams: dict[str, Stream] = {}
    with no_garbage_collection():
        for number in range(passes):
            streams = {name: compiled.stream(tolerance) for name, tolerance in names.items()}
            if number == 0:
                # Its code is made with the first frame.
                for stream in streams.values():
                    stream(video[0])
                    stream.reset()
            _play(video, ready, streams, seconds, errors)
            tick(f"{network}, {camera} camera: pass {number + 1} of {passes}")
    whole = statistics.fmean(seconds["dense"][1:])
    rows = []
    for name, taken in seconds.items():
        mean = statistics.fmean(taken[1:])
        row = Row(network, camera, name, mean * 1e3, statistics.median(taken[1:]) * 1e3, mean / whole, taken[0] * 1e3)
        if name in streams:
            row = _with_work(row, streams[name], errors[name])
        rows.append(row)
    return [*rows, *failed]


def _with_work(row: Row, stream: Stream, errors: Sequence[float]) -> Row:
    """A stream's row, with what it computed and what that changed."""
    stats = stream.stats()
    return dataclasses.replace(
        row,
        # Of the frames behind the first.
        work=(stats.work * stats.frames - 1) / (stats.frames - 1),
        error=statistics.fmean(errors),
        worst=max(errors),
        plain=stats.plain,
        kept=stream.kept_bytes / 1e6,
    )


def _play(
    video: Sequence[Tensor],
    ready: dict[str, Runner],
    streams: dict[str, Stream],
    seconds: dict[str, list[float]],
    errors: dict[str, list[float]],
) -> None:
    """Let every runner compute every frame once, in turns."""
    for number, frame in enumerate(video):
        outputs = {}
        for name, runner in {**ready, **{name: Runner(stream) for name, stream in streams.items()}}.items():
            encoded = runner.encode(frame)
            start = time.perf_counter()
            outputs[name] = runner.run(encoded)
            seconds[name][number] = min(seconds[name][number], time.perf_counter() - start)
        wanted = outputs["dense"]
        for name in streams:
            if number:
                errors[name].append(float((outputs[name] - wanted).norm() / wanted.norm()))


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    headings = (
        "network",
        "camera",
        "runner",
        "ms a frame",
        "of dense",
        "first frame",
        "multiply-adds",
        "error",
        "largest",
    )
    lines = [f"| {' | '.join(headings)} | MB kept |", "|---" * (len(headings) + 1) + "|"]
    for row in rows:
        head = f"| {row.network} | {row.camera} | {row.runner} "
        if row.failure:
            lines.append(f"{head}| {row.failure} | | | | | | |")
            continue
        numbers = f"| {row.mean:.1f} | {row.ratio:.2f} | {row.first:.1f} "
        if row.kept:
            numbers += f"| {row.work:.3f} | {row.error:.4f} | {row.worst:.4f} | {row.kept:.0f} |"
        else:
            numbers += "| | | | |"
        lines.append(head + numbers)
    return "\n".join(lines)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--cameras", nargs="+", choices=CAMERAS, default=list(CAMERAS))
    parser.add_argument("--frames", type=int, default=24, help="of a video (24)")
    parser.add_argument("--passes", type=int, default=3, help="how often a video is played (3)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--int8", action="store_true", help="streams of the int8 compile, and that beside them")
    parser.add_argument("--no-peers", action="store_true", help="only this compiler")
    parser.add_argument("--json", type=Path, help="also write what was measured to this file")
    parser.add_argument("--picture", type=Path, help="measure nothing: draw the computed tiles of a frame to this file")
    args = parser.parse_args()
    if args.picture:
        draw(CASES["resnet18"].load(), scene(CASES["resnet18"].size, 6), args.picture)
        return
    os.environ["TVM_NUM_THREADS"] = str(args.threads)
    torch.set_num_threads(args.threads)
    print(machine(), file=sys.stderr)
    rows = []
    for network in args.networks:
        for camera in args.cameras:
            video = frames(network, camera, args.frames)
            rows += measure(network, camera, video, args)
    tick("")
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
