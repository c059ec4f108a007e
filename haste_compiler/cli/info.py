"""``haste info``."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from haste_compiler.cli.methods import MethodsListed
from haste_compiler.cli.networks import NetworkSource
from haste_compiler.cli.options import (
    COMPILE_OPTIONS,
    NETWORK_OPTIONS,
    compile_options,
    network_options,
    refuse_options,
)
from haste_compiler.cli.output import emit, json_option, note
from haste_compiler.errors import InputError


@click.command(cls=MethodsListed, short_help="Look into a saved network, or explain MODEL's layers.")
@network_options(metavar="FILE.haste|MODEL")
@compile_options()
@json_option
def info(network: NetworkSource, how: dict[str, Any], as_json: bool) -> None:
    """Say what is in a saved network; or which convolutions of MODEL become HASTE convolutions here, and why.

    A saved network is checked for damage, but none of its code is loaded: files for other machines can be looked at.

    \b
    Examples:
      haste info resnet18.haste
      haste info torchvision:resnet18 --input 1x3x224x224
      haste info net.pt2 --no-cost-model --json
    """
    what = network.model
    if Path(what).is_file() and (what.endswith(".haste") or (not what.endswith(".pt2") and zipfile.is_zipfile(what))):
        refuse_options(f"{what} is compiled already", (*NETWORK_OPTIONS, *COMPILE_OPTIONS))
        _saved(Path(what), as_json)
        return
    if what.endswith(".haste"):
        raise InputError(f"there is no file {what}")
    import haste_compiler

    loaded = network.load()
    note(f"compiling {loaded.name}")
    compiled = haste_compiler.compile(loaded.model, loaded.example, **how)
    explanation = compiled.explain()
    data = {
        "model": what,
        "target": str(compiled.target),
        "threads": compiled.threads,
        "config": how["config"].to_dict(),
    }
    emit(as_json, {**data, **explanation.to_dict()}, str(explanation))


def _saved(path: Path, as_json: bool) -> None:
    from haste_compiler.fallback.record import Fallback
    from haste_compiler.methods.explanation import Explanation, FallbackChoice, LayerChoice
    from haste_compiler.runtime.artifact_file import Artifact

    with Artifact(path) as artifact:
        artifact.check()
        manifest = artifact.described
    parts = manifest["specializations"]
    choices = [tuple(LayerChoice.from_dict(layer["choice"]) for layer in part["layers"]) for part in parts]
    left = [tuple(FallbackChoice.of(Fallback(**each)) for each in part["fallbacks"]) for part in parts]
    texts = [
        f"input {_signature(part)}: {Explanation(layers, fallbacks)}"
        for part, layers, fallbacks in zip(parts, choices, left, strict=True)
    ]
    emit(as_json, artifact.manifest, "\n\n".join([_summary(path, manifest), *texts]))


def _summary(path: Path, manifest: Mapping[str, Any]) -> str:
    target, configs = manifest["target"], manifest["configs"]
    described = [", ".join(f"{name}={value}" for name, value in config.items()) for config in configs.values()]
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    rows = {
        "network": f"{manifest['name']}, {path.stat().st_size / 1e6:.1f} MB",
        "target": f"{target['options'].get('mcpu', 'generic')} ({target['architecture']}), "
        f"threads: {manifest['threads']}",
        "needs": ", ".join(target["features"]) or "nothing special",
        "made by": versions,
        "configuration": "; ".join(f"{name}: {each}" for name, each in zip(configs, described, strict=True)),
    }
    return "\n".join(f"{name:<14}{value}" for name, value in rows.items())


def _signature(part: Mapping[str, Any]) -> str:
    return ", ".join(f"{'x'.join(map(str, item['shape']))} {item['dtype']}" for item in part["inputs"])
