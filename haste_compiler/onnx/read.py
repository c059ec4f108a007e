"""A file, or a message in memory, becomes a checked ``ModelProto`` that holds all its data."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from onnx import ModelProto

from haste_compiler.errors import OnnxError, first_line

OLDEST = 7
"""The first version of the operator set whose binary operators broadcast as NumPy does."""


def read(model: str | os.PathLike[str] | ModelProto) -> ModelProto:
    """Read and check a network; a message that was given is copied.

    Raises:
        OnnxError: it is no ONNX network, is damaged, or of a version that can't be read.
    """
    if isinstance(model, ModelProto):
        name, found = "the ModelProto", ModelProto()
        found.CopyFrom(model)
    elif isinstance(model, str | os.PathLike):
        name, found = str(Path(model)), _load(Path(model))
    else:
        raise OnnxError(f"from_onnx takes a path or an onnx.ModelProto, not {type(model).__name__}")
    if not found.ir_version or not found.opset_import or not found.graph.output:
        raise OnnxError(f"{name} is no ONNX network, or is cut short: it has no graph")
    if any(each.data_location == onnx.TensorProto.EXTERNAL for each in found.graph.initializer):
        raise OnnxError(f"{name} keeps weights in other files: give the path of the ONNX file instead")
    version = opset(found)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= version <= newest:
        advice = "update the package onnx" if version > newest else "convert it by onnx.version_converter"
        raise OnnxError(f"{name} has opset {version}; the installed onnx and we read {OLDEST} to {newest}: {advice}")
    return found


def opset(model: ModelProto) -> int:
    """The version of ONNX's own operators that a network uses."""
    return max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=OLDEST)


def _load(path: Path) -> ModelProto:
    if not path.is_file():
        raise OnnxError(f"there is no file {path}")
    try:
        return onnx.load(str(path))
    except Exception as error:
        # protobuf's errors, the checker's, and those of files that external data should be in.
        raise OnnxError(
            f"{path} is no ONNX network, or is damaged: {type(error).__name__}: {first_line(error)}"
        ) from error
