"""Saving a compiled network: libraries, weights and a manifest, everything that running it again takes."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import tvm
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tvm.target import Target

import haste_compiler
from haste_compiler.codegen.cpu.target import architecture, required_features, target_options
from haste_compiler.codegen.cuda.build import compile_source, source_of
from haste_compiler.codegen.cuda.target import arch_of, is_cuda
from haste_compiler.codegen.library import Code
from haste_compiler.codegen.program import HasteGroup
from haste_compiler.errors import ArtifactError
from haste_compiler.methods.explanation import Explanation, LayerChoice
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.runtime.artifact_file import WEIGHTS, write_artifact
from haste_compiler.runtime.artifact_structure import Structure, value_to_json
from haste_compiler.runtime.executable import Executable

if TYPE_CHECKING:
    from haste_compiler.methods.layers import ConvLayer
    from haste_compiler.runtime.compiled import Specialization
    from haste_compiler.runtime.inputs import Signature


def save(
    path: str | PathLike[str],
    name: str,
    config: HasteConfig,
    target: Target,
    threads: int,
    made: Mapping[Signature, Specialization],
) -> None:
    """Write a compiled network to a file.

    Args:
        path: of the file.
        name: of the network, for error messages.
        config: that it was compiled with.
        target: of the code.
        threads: that the code was cut for.
        made: what was compiled, by input signature.

    Raises:
        ArtifactError, TargetError: see ``CompiledModule.save``.
    """
    if not made:
        raise ArtifactError(f"{name} is not compiled yet: call it, or prepare(), with inputs, then save it")
    weights: dict[str, NDArray[Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Path] = {}
        described = []
        for number, (signature, each) in enumerate(made.items()):
            library = f"code/{number}.so"
            parts[library] = Path(folder) / f"{number}.so"
            each.executable.code.write_library(parts[library])
            binary = _compiled_for_card(each.executable.code, Path(folder) / f"{number}.fatbin")
            if binary is not None:
                parts[f"code/{number}.fatbin"] = binary
            names = [_remember(weights, constant.numpy()) for constant in each.executable.constants]
            described.append({**_describe(signature, each), "library": library, "constants": names})
        parts[WEIGHTS] = Path(folder) / WEIGHTS
        save_file(weights, parts[WEIGHTS])
        manifest = {
            "name": name,
            "versions": {
                "haste_compiler": haste_compiler.__version__,
                "torch": torch.__version__,
                "tvm": tvm.__version__,
            },
            "target": {
                "options": target_options(target),
                "architecture": architecture(target),
                "features": required_features(target),
            },
            "threads": threads,
            "config": config.to_dict(),
            "specializations": described,
        }
        write_artifact(path, manifest, parts)


def _compiled_for_card(code: Code, path: Path) -> Path | None:
    """The file with a card's machine code, where the library holds its source, as it does if compiled without a card.

    None: there is nothing to compile, or no nvcc; then the source is compiled when it is loaded.
    """
    # A library that was read from the cache is one that runs here: it holds machine code.
    source = source_of(code.module.mod) if is_cuda(code.target) and code.file is None else ""
    if not source or shutil.which("nvcc") is None:
        return None
    path.write_bytes(compile_source(source, arch_of(code.target)))
    return path


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
        "input_structure": Structure.of_spec(each.in_spec.children()[0]).to_json(),
        **({} if batch is None else {"batch": dataclasses.asdict(batch)}),
        "outputs": each.executable.outputs,
        "output_structure": Structure.of_spec(each.out_spec).to_json(),
        "output_values": [[position, value_to_json(value)] for position, value in each.constants.items()],
        "groups": _groups(each.executable),
        "kernels": each.executable.kernels,
        "layers": [_layer(*pair) for pair in zip(each.layers, Explanation.of(each.layers).layers, strict=True)],
    }


def _layer(layer: ConvLayer, choice: LayerChoice) -> dict[str, Any]:
    geometry = layer.geometry and dataclasses.asdict(layer.geometry)
    return {"node": layer.node, "geometry": geometry, "choice": dataclasses.asdict(choice)}


def _groups(executable: Executable) -> Sequence[dict[str, Any]]:
    return [_group(group, executable.settings(index)) for index, group in enumerate(executable.groups)]


def _group(group: HasteGroup, settings: Sequence[float]) -> dict[str, Any]:
    """A grouping, with the settings it has now; no tolerance is null, JSON has no infinity."""
    plain = [None if math.isinf(number) else number for number in settings]
    return {**dataclasses.asdict(group), "settings": plain}
