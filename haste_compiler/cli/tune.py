"""``haste tune``."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import click

from haste_compiler.cli.networks import Network, NetworkSource
from haste_compiler.cli.options import compile_options, network_options, output_option, rounds_option
from haste_compiler.cli.output import emit, json_option, note


@click.command(short_help="Measure tilings, algorithms and patches, keep the best.")
@network_options()
@output_option("Also write what was found to this file, for `haste compile --tuning`.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="When to stop; default: when all is measured.")
@click.option("--tracker", metavar="HOST:PORT", help="Measure on the servers of this TVM RPC tracker, not here.")
@click.option("--key", help="Of those servers.")
@rounds_option(20)
@compile_options(precision=False)
@json_option
def tune(
    network: NetworkSource,
    output: Path | None,
    seconds: float | None,
    tracker: str | None,
    key: str | None,
    rounds: int,
    how: dict[str, Any],
    as_json: bool,
) -> None:
    """Measure tilings, algorithms and patches for MODEL's layers, keep the best, and say what that gained.

    Tilings are kept in the cache ($HASTE_CACHE) for every later `haste compile --tune`, and for
    compile(..., tune=True). The patches of HASTE layers are in the file only.

    \b
    Examples:
      haste tune torchvision:resnet18 --threads 1 --seconds 60
      haste tune net.pt2 --input 1x3x64x64 --json
      haste tune net.pt2 --target 'llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a76' --threads 4
          --tracker farm:9190 --key pi5 -o pi5.json
    """
    import haste_compiler
    from haste_compiler.cache.location import cache_directory
    from haste_compiler.codegen.target import machine_of, parse_target

    loaded = network.load()
    note(f"tuning {loaded.name}")
    start = time.perf_counter()
    tuning = haste_compiler.tune(
        loaded.model, loaded.example, seconds=seconds, tracker=tracker, key=key, save=output, **how
    )
    spent = time.perf_counter() - start
    data: dict[str, Any] = {"seconds": spent, "cache": str(cache_directory()), "output": output and str(output)}
    text = f"{tuning}\n\ntuned in {spent:.1f} s; kept in {output or cache_directory()}"
    data["tuning"] = tuning.to_dict()
    if not machine_of(parse_target(how["target"])).missing():
        gained, said = _gain(loaded, tuning, rounds, how)
        data, text = {**data, **gained}, f"{text}\n{said}"
    emit(as_json, data, text)


def _gain(loaded: Network, tuning: Any, rounds: int, how: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The times of the network on this machine, with and without what was found."""
    import haste_compiler
    from haste_compiler.validation.batches import Batch
    from haste_compiler.validation.timing import measure, use_threads

    tuned = haste_compiler.compile(loaded.model, loaded.example, tune=tuning, **how)
    untuned = haste_compiler.compile(loaded.model, loaded.example, **how)
    with use_threads(tuned.threads):
        times = measure(untuned, tuned, [Batch(loaded.example)], rounds)
    data = {
        "untuned": dataclasses.asdict(times.original),
        "tuned": dataclasses.asdict(times.compiled),
        "speedup": times.original_speedup,
    }
    text = (
        f"{times.compiled.median * 1e3:.2f} ms, {times.original.median * 1e3:.2f} ms before "
        f"({times.original_speedup:.2f} times as fast)"
    )
    return data, text
