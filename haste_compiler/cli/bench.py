"""``haste bench``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from haste_compiler.cli.images import ImageSource
from haste_compiler.cli.networks import NetworkSource
from haste_compiler.cli.options import compile_options, image_options, network_options, rounds_option
from haste_compiler.cli.output import emit, json_option, note

if TYPE_CHECKING:
    from haste_compiler.validation import Times


@click.command(short_help="Time the original, dense and HASTE in turns.")
@network_options()
@image_options(required=False)
@rounds_option(20)
@compile_options()
@json_option
def bench(network: NetworkSource, images: ImageSource, rounds: int, how: dict[str, Any], as_json: bool) -> None:
    """Time MODEL in PyTorch, compiled dense and compiled with HASTE, in turns, for every --input.

    Time depends on the images: made-up ones merge about as much as photographs do.

    \b
    Examples:
      haste bench torchvision:resnet18 --threads 1
      haste bench net.pt2 --images test.npz --input 1x3x32x32 --input 16x3x32x32 --rounds 50 --json
    """
    import haste_compiler
    from haste_compiler.validation.batches import Batch
    from haste_compiler.validation.timing import measure, use_threads

    loaded = network.load()
    compiled = haste_compiler.compile(loaded.model, **how)
    results: list[dict[str, Any]] = []
    lines = []
    for example in [loaded.example, *loaded.examples[1:]]:
        calls = [example]
        if len(example) == 1 and example[0].dim() == 4:
            shape = tuple(example[0].shape)
            pictures = images.read(shape, most=shape[0] * rounds)
            calls = [(batch,) for batch in pictures.batches(shape[0]) if len(batch) == shape[0]] or calls
        sizes = ", ".join("x".join(map(str, tensor.shape)) for tensor in example)
        note(f"compiling {loaded.name} for {sizes}")
        compiled.prepare(*example)
        with use_threads(compiled.threads):
            times = measure(loaded.model, compiled, [Batch(call) for call in calls], rounds)
        results.append({"inputs": [list(tensor.shape) for tensor in example], **dataclasses.asdict(times)})
        lines.append(_table(sizes, times))
    emit(as_json, {"model": loaded.name, "target": str(compiled.target), "results": results}, "\n\n".join(lines))


def _table(sizes: str, times: Times) -> str:
    rows = (("original", times.original), ("dense", times.dense), ("HASTE", times.compiled))
    head = f"{sizes}, threads: {times.threads}, rounds: {times.rounds}{'best':>12}{'median':>12}"
    width = len(head) - 24
    lines = [f"  {name:<{width - 2}}{each.best * 1e3:>9.2f} ms{each.median * 1e3:>9.2f} ms" for name, each in rows]
    return "\n".join(
        [head, *lines, f"speedup {times.speedup:.2f} over dense, {times.original_speedup:.2f} over the original"]
    )
