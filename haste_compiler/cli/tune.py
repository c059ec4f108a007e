"""``haste tune``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import click

from haste_compiler.cli.networks import Network
from haste_compiler.cli.options import config_options, machine_options, network_options, rounds_option
from haste_compiler.cli.output import emit, json_option, note
from haste_compiler.config import HasteConfig


@click.command(short_help="Measure tilings on this machine, keep the best.")
@network_options
@rounds_option(20)
@config_options
@machine_options
@json_option
def tune(
    network: Callable[[], Network],
    rounds: int,
    config: HasteConfig,
    target: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure tilings of MODEL's dense kernels on this machine, keep the best, and say what that gained.

    What was measured is kept in the cache ($HASTE_CACHE) for every later `haste compile --tune`, and for
    compile(..., tune=True).

    \b
    Examples:
      haste tune torchvision:resnet18 --threads 1
      haste tune net.pt2 --input 1x3x64x64 --json
    """
    import haste_compiler
    from haste_compiler.codegen.build import cache_directory
    from haste_compiler.validation.batches import Batch
    from haste_compiler.validation.timing import measure, use_threads

    loaded = network()
    example = loaded.example
    note(f"tuning {loaded.name}")
    start = time.perf_counter()
    tuned = haste_compiler.compile(loaded.model, example, target=target, config=config, threads=threads, tune=True)
    seconds = time.perf_counter() - start
    untuned = haste_compiler.compile(loaded.model, example, target=target, config=config, threads=threads)
    with use_threads(tuned.threads):
        times = measure(untuned, tuned, [Batch(example)], rounds)
    data = {
        "seconds": seconds,
        "cache": str(cache_directory()),
        "untuned": dataclasses.asdict(times.original),
        "tuned": dataclasses.asdict(times.compiled),
        "speedup": times.original_speedup,
    }
    text = (
        f"tuned in {seconds:.1f} s: {times.compiled.median * 1e3:.2f} ms, {times.original.median * 1e3:.2f} ms before "
        f"({times.original_speedup:.2f} times as fast); kept in {cache_directory()}"
    )
    emit(as_json, data, text)
