"""Saving a compiled network: libraries, weights and a manifest, everything that running it again takes."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import tvm
from numpy.typing import NDArray
from safetensors.numpy import save_file

from haste_compiler.codegen.machine import Machine
from haste_compiler.codegen.processor import architecture, required_features
from haste_compiler.codegen.target import target_options
from haste_compiler.errors import ArtifactError
from haste_compiler.files import scratch_folder
from haste_compiler.graph.parameters import Parameters
from haste_compiler.methods.configs import Configs
from haste_compiler.methods.explanation import LayerChoice
from haste_compiler.runtime.artifact_file import write_artifact
from haste_compiler.runtime.artifact_manifest import WEIGHTS, stream_library
from haste_compiler.runtime.artifact_structure import Structure, value_to_json
from haste_compiler.runtime.artifact_ternary import is_ternary, pack_ternary
from haste_compiler.runtime.executable import Executable
from haste_compiler.version import __version__

if TYPE_CHECKING:
    from haste_compiler.methods.layers import ConvLayer
    from haste_compiler.runtime.inputs import Signature
    from haste_compiler.runtime.specialization import Specialization
    from haste_compiler.runtime.stream import StreamCode


@dataclass(frozen=True)
class Saved:
    """What is said of a network as a whole.

    Attributes:
        name: of the network, for error messages.
        parameters: its inputs' names.
        configs: that it was compiled with.
        machine: that the code is for.
    """

    name: str
    parameters: Parameters
    configs: Configs
    machine: Machine


def save(
    path: str | PathLike[str],
    saved: Saved,
    made: Mapping[Signature, Specialization],
    streams: Mapping[Signature, StreamCode],
) -> None:
    """Write a compiled network to a file.

    Args:
        path: of the file.
        saved: what it is.
        made: what was compiled, by input signature.
        streams: the same for streams, for none of them or all.

    Raises:
        ArtifactError, TargetError: see ``CompiledModule.save``.
    """
    name, machine = saved.name, saved.machine
    if not made:
        raise ArtifactError(f"{name} is not compiled yet: call it, or prepare(), with inputs, then save it")
    weights: dict[str, NDArray[Any]] = {}
    with scratch_folder() as folder:
        parts: dict[str, Path] = {}
        described = []
        for number, (signature, each) in enumerate(made.items()):
            code = each.executable.code
            called = {**_describe(signature, each), **_code(each.executable, f"{number}", folder, parts, weights)}
            # A library that was read from the cache is one that runs here: it holds machine code.
            binary = machine.binary(code.module.mod) if code.library is None else None
            if binary is not None:
                parts[f"code/{number}.fatbin"] = folder / f"{number}.fatbin"
                parts[f"code/{number}.fatbin"].write_bytes(binary)
            if signature in streams:
                stream = streams[signature]
                plan = dataclasses.asdict(stream.plan)
                called["stream"] = {
                    **_code(stream.executable, stream_library(number), folder, parts, weights),
                    "states": [{"shape": list(shape), "dtype": dtype} for shape, dtype in plan["states"]],
                    "tiles": list(plan["layers"]),
                    "most_work": plan["most_work"],
                }
            described.append(called)
        parts[WEIGHTS] = folder / WEIGHTS
        ternary = {name: list(each.shape) for name, each in weights.items() if is_ternary(each)}
        stored = {name: pack_ternary(each) if name in ternary else each for name, each in weights.items()}
        save_file(stored, parts[WEIGHTS])
        manifest = {
            "name": name,
            "versions": {
                "haste_compiler": __version__,
                "torch": torch.__version__,
                "tvm": tvm.__version__,
            },
            "target": {
                "options": target_options(machine.target),
                "architecture": architecture(machine.host),
                "features": required_features(machine.host),
            },
            "threads": machine.threads,
            "configs": saved.configs.to_dict(),
            "parameters": {
                "names": saved.parameters.names,
                "defaults": {key: value_to_json(value) for key, value in saved.parameters.defaults.items()},
                "optional": sorted(saved.parameters.optional),
                "more": saved.parameters.more,
            },
            "ternary": ternary,
            "specializations": described,
        }
        write_artifact(path, manifest, parts)
    _warn_of_fallbacks(name, made)


def _warn_of_fallbacks(name: str, made: Mapping[Signature, Specialization]) -> None:
    """Say that a saved network isn't whole without PyTorch."""
    left = [fallback.operators for each in made.values() for fallback in each.executable.fallbacks]
    operators = list(dict.fromkeys(operator for each in left for operator in each))
    if operators:
        warnings.warn(
            f"the saved {name} needs PyTorch to run, which computes {', '.join(operators)} in it; "
            "compile(..., fallback=False) refuses networks that do",
            stacklevel=4,
        )


def _code(
    executable: Executable, name: str, folder: Path, parts: dict[str, Path], weights: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    """What is said of machine code that is added to the parts, and its weights to the weights."""
    library = f"code/{name}.so"
    parts[library] = folder / f"{name}.so"
    executable.code.write_library(parts[library])
    return {
        "library": library,
        "constants": [_remember(weights, constant.numpy()) for constant in executable.constants],
        "records": _records(executable),
        "kernels": executable.kernels,
        "fallbacks": [dataclasses.asdict(fallback) for fallback in executable.fallbacks],
    }


def _remember(weights: dict[str, NDArray[Any]], constant: NDArray[Any]) -> str:
    """Add a tensor to the weights, once: specialisations share most of theirs. Returns its name."""
    digest = hashlib.sha256(np.ascontiguousarray(constant).data if constant.size else b"")
    digest.update(repr((constant.shape, str(constant.dtype))).encode())
    name = digest.hexdigest()[:32]
    weights.setdefault(name, constant)
    return name


def _describe(signature: Signature, each: Specialization) -> dict[str, Any]:
    shapes, batch = zip(signature.shapes, signature.dtypes, strict=True), each.executable.batch
    return {
        "inputs": [{"shape": list(shape), "dtype": str(dtype).removeprefix("torch.")} for shape, dtype in shapes],
        # Positional arguments only: networks are called without keywords.
        "input_values": [[position, value_to_json(value)] for position, value in signature.constants],
        "input_structure": Structure.of_spec(each.in_spec.children()[0]).to_json(),
        **({} if batch is None else {"batch": dataclasses.asdict(batch)}),
        "outputs": each.executable.outputs,
        "output_structure": Structure.of_spec(each.out_spec).to_json(),
        "output_values": [[position, value_to_json(value)] for position, value in each.constants.items()],
        "layers": list(map(_layer, each.layers)),
    }


def _layer(layer: ConvLayer) -> dict[str, Any]:
    geometry = layer.geometry and dataclasses.asdict(layer.geometry)
    return {"node": layer.node, "geometry": geometry, "choice": dataclasses.asdict(LayerChoice.of(layer))}


def _records(executable: Executable) -> Sequence[dict[str, Any]]:
    """The records, with the values that they have now; infinity is null, JSON has none."""
    described = []
    for index, record in enumerate(executable.records):
        values = [None if math.isinf(value) else value for value in executable.values(index)]
        described.append({**dataclasses.asdict(record), "values": values})
    return described
