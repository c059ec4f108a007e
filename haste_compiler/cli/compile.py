"""``haste compile``."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import click

from haste_compiler.cli.networks import NetworkSource
from haste_compiler.cli.options import compile_options, gather, network_options, output_option
from haste_compiler.cli.output import emit, json_option, note
from haste_compiler.cli.parameter_types import EXISTING_FILE


def _tuning(tune: bool, tuning: Path | None) -> Path | bool:
    """What ``haste_compiler.compile`` takes for the two options.

    Raises:
        UsageError: both are given.
    """
    if tune and tuning:
        raise click.UsageError("--tune and --tuning exclude each other", click.get_current_context())
    return tuning or tune


@click.command(short_help="Compile MODEL and save it to one file.")
@network_options()
@output_option("File to write.", required=True)
@compile_options()
@click.option("--dynamic", is_flag=True, help="For all batches at once, not only that of the inputs.")
@click.option("--tune", is_flag=True, help="Measure tilings on this machine first; takes a minute or two.")
@click.option("--tuning", type=EXISTING_FILE, help="What `haste tune -o` wrote; measures nothing.")
@click.option("--streams", is_flag=True, help="With streams of such inputs, for `haste stream` and loaded.stream().")
@click.option("--no-fallback", is_flag=True, help="Refuse a network of which PyTorch would have to run a part.")
@json_option
@gather("tuning", _tuning, ("tune", "tuning"))
def compile(
    network: NetworkSource,
    output: Path,
    how: dict[str, Any],
    dynamic: bool,
    tuning: Path | bool,
    streams: bool,
    no_fallback: bool,
    as_json: bool,
) -> None:
    """Compile MODEL and save it to one file, which haste_compiler.load runs without the model.

    It needs no PyTorch there either, unless PyTorch runs a part of the network, which is said and can be refused.

    \b
    Examples:
      haste compile torchvision:resnet18 -o resnet18.haste
      haste compile net.pt2 --tolerance 0.2 -o net.haste
      haste compile nets.py:small --weights small.safetensors --input 1x3x64x64 --input 8x3x64x64 -o small.haste
      haste compile timm:resnet34 --target 'llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a76' -o arm.haste
    """
    import haste_compiler
    from haste_compiler.methods.explanation import described

    loaded, start = network.load(), time.perf_counter()
    examples = [loaded.example, *loaded.examples[1:]]
    compiled = haste_compiler.compile(loaded.model, tune=tuning, dynamic=dynamic, fallback=not no_fallback, **how)
    for example in examples:
        note(f"compiling {loaded.name} for {', '.join('x'.join(map(str, x.shape)) for x in example)}")
        compiled.prepare(*example)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        compiled.save(output, streams=streams)
    for warning in said:
        note(str(warning.message))
    seconds, explanation = time.perf_counter() - start, compiled.explain()
    choices = explanation.layers
    data = {
        "output": str(output),
        "bytes": output.stat().st_size,
        "seconds": seconds,
        "dynamic": dynamic,
        "streams": streams,
        "inputs": [[list(x.shape) for x in example] for example in examples],
        "convolutions": len(choices),
        "methods": {layer.name: layer.method for layer in choices if layer.method is not None},
        "haste": [layer.name for layer in choices if layer.haste],
        "fallbacks": explanation.to_dict()["fallbacks"],
        "target": str(compiled.target),
        "threads": compiled.threads,
        "config": how["config"].to_dict(),
    }
    size = f"{output.stat().st_size / 1e6:.1f} MB"
    emit(as_json, data, f"{output}: {size}, {described(choices)}, {seconds:.1f} s")
