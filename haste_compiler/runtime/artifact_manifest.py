"""What the manifest of a saved network says: its fields, what they may be, and what must agree with what.

A field more or less is a new format: count ``FORMAT_VERSION`` up, and bring the older one up to it in
``artifact_formats``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from haste_compiler.codegen.machine import MOST_THREADS
from haste_compiler.codegen.program import Record
from haste_compiler.methods.registry import method, names
from haste_compiler.runtime.artifact_structure import Structure, check_value
from haste_compiler.runtime.schema import (
    SchemaError,
    anything,
    entries,
    fields,
    flag,
    integer,
    mapping,
    number,
    one_of,
    optional,
    sequence,
    text,
)

FORMAT = "haste-artifact"
FORMAT_VERSION = 7
"""Counts up when what is written has other fields."""

WEIGHTS = "weights.safetensors"
"""The part that holds weights and tables."""

_DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64"),
)
"""Of inputs, by NumPy's names."""

_MOST = 2**31 - 1
"""Largest size and count: kernels number elements so."""

_MOST_INPUTS = 4096
"""Of what PyTorch runs in one call."""

_size, _count = integer(1, _MOST), integer(0, _MOST)
_pair, _sides = entries(_size, _size), entries(_count, _count)


def _known(name: Any, place: str) -> None:
    one_of(*names())(name, place)


def _digest(value: Any, place: str) -> None:
    if not isinstance(value, str) or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise SchemaError(place, value, "a SHA-256 in hexadecimal digits")


_GEOMETRY = fields(
    {
        "in_channels": _size,
        "out_channels": _size,
        "kernel": _pair,
        "stride": _pair,
        "padding": entries(_count, _count, _count, _count),
        "dilation": _pair,
        "groups": _size,
        "input_size": _sides,
        "patch": _pair,
    }
)

_LAYER = fields(
    {
        "node": text,
        "geometry": optional(_GEOMETRY),
        "choice": fields(
            {
                "name": text,
                "method": optional(_known),
                "reason": text,
                "dense_ms": optional(number),
                "method_ms": optional(number),
                "kept": optional(number),
                "kind": one_of("conv", "linear", "attention"),
                "setting": optional(_count),
                "output_error": optional(number),
                "network_error": optional(number),
            }
        ),
    }
)

_RECORD = fields(
    {
        "method": _known,
        "layers": sequence(text, 1),
        "values": sequence(optional(number)),
        "statistics": _count,
        # Its method checks it.
        "data": mapping(anything),
    }
)


def _calls(value: Any, place: str) -> None:
    for index, call in enumerate(value):
        at = f"{place}[{index}]"
        if isinstance(call, dict) and "graph" in call:
            fields({"graph": _program})(call, at)
        else:
            fields({"call": text, "args": sequence(anything)}, {"kwargs": sequence(entries(text, anything))})(call, at)


def _program(value: Any, place: str) -> None:
    # Its arguments are checked as they are read.
    fields({"inputs": integer(0, _MOST_INPUTS), "calls": sequence(anything), "outputs": sequence(anything)})(
        value, place
    )
    _calls(value["calls"], f"{place}.calls")


def _values(value: Any, place: str) -> None:
    sequence(entries(_count, check_value))(value, place)


_CODE = {
    "library": text,
    "constants": sequence(text),
    "records": sequence(_RECORD),
    "kernels": sequence(entries(text, text)),
    "fallbacks": sequence(fields({"layer": text, "program": _program})),
}

_STREAM = fields(
    {
        **_CODE,
        "states": sequence(fields({"shape": sequence(_size), "dtype": one_of("float32", "int8", "int32")})),
        "tiles": sequence(
            fields({"name": text, "side": _size, "tiles": _size, "macs": integer(0, 2**63 - 1), "state": _count}), 1
        ),
        "most_work": number,
    }
)

_SPECIALIZATION = fields(
    {
        "inputs": sequence(fields({"shape": sequence(_count), "dtype": one_of(*_DTYPES)})),
        "input_values": _values,
        "input_structure": Structure.check,
        "outputs": _count,
        "output_structure": Structure.check,
        "output_values": _values,
        "layers": sequence(_LAYER),
        **_CODE,
    },
    {
        "batch": fields(
            {"name": text, "least": _size, "most": optional(_size), "inputs": sequence(_count, 1)},
        ),
        "stream": _STREAM,
    },
)

_MANIFEST = fields(
    {
        "format": one_of(FORMAT),
        "format_version": integer(FORMAT_VERSION, FORMAT_VERSION),
        "name": text,
        "versions": mapping(text),
        "target": fields({"options": mapping(anything), "architecture": text, "features": sequence(text)}),
        "threads": integer(1, MOST_THREADS),
        # Each method's configuration checks its own.
        "configs": mapping(mapping(anything)),
        "parameters": fields(
            {"names": sequence(text), "defaults": mapping(check_value), "optional": sequence(text), "more": flag}
        ),
        # Shapes of the weights that are kept in 2 bits, see ``artifact_ternary``.
        "ternary": mapping(sequence(_size)),
        "specializations": sequence(_SPECIALIZATION, 1),
        "files": mapping(fields({"bytes": integer(0, 2**63 - 1), "sha256": _digest})),
    }
)


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Check a manifest of the newest format: every field, and that they agree.

    Raises:
        ValueError: it doesn't describe a network; the message says where and why.
    """
    _MANIFEST(manifest, "the manifest")
    if "tvm" not in manifest["versions"]:
        raise ValueError("the manifest.versions has no 'tvm'")
    _check_parameters(manifest["parameters"])
    libraries = []
    for index, each in enumerate(manifest["specializations"]):
        place = f"specializations[{index}]"
        libraries.append(f"code/{index}.so")
        _check_code(each, libraries[-1], place)
        _check_inputs(each, place)
        _check_outputs(each, place)
        if "stream" in each:
            libraries.append(f"code/{stream_library(index)}.so")
            _check_code(each["stream"], libraries[-1], f"{place}.stream")
            _check_stream(each["stream"], f"{place}.stream")
    if len({"stream" in each for each in manifest["specializations"]}) > 1:
        raise ValueError("specializations: some have a stream, and others have none")
    _check_files(manifest["files"], libraries)


def stream_library(number: int) -> str:
    """The name of the library for streams of a specialization."""
    return f"{number}.stream"


def _check_code(stored: Mapping[str, Any], library: str, place: str) -> None:
    one_of(library)(stored["library"], f"{place}.library")
    for number_, record in enumerate(stored["records"]):
        _check_record(record, f"{place}.records[{number_}]")


def _check_stream(stored: Mapping[str, Any], place: str) -> None:
    states = stored["states"]
    for index, each in enumerate(states):
        if math.prod(each["shape"]) > _MOST:
            raise SchemaError(f"{place}.states[{index}].shape", each["shape"], f"{_MOST} elements at most")
    for index, layer in enumerate(stored["tiles"]):
        at = f"{place}.tiles[{index}].state"
        integer(0, len(states) - 1)(layer["state"], at)
        if states[layer["state"]] != {"shape": [1], "dtype": "int32"}:
            raise ValueError(f"{at} is {layer['state']}: that state is no count of tiles")


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    known = parameters["names"]
    _distinct(known, "parameters.names")
    for field in ("defaults", "optional"):
        for name in parameters[field]:
            one_of(*known)(name, f"parameters.{field}")


def _check_files(files: Mapping[str, Any], libraries: Sequence[str]) -> None:
    binaries = [library.replace(".so", ".fatbin") for library in libraries]
    for name in (WEIGHTS, *libraries):
        if name not in files:
            raise ValueError(f"files has no {name!r}")
    for name in files:
        one_of(WEIGHTS, *libraries, *binaries)(name, "a name in files")


def _check_inputs(stored: Mapping[str, Any], place: str) -> None:
    inputs = stored["inputs"]
    for index, each in enumerate(inputs):
        if math.prod(each["shape"]) > _MOST:
            raise SchemaError(f"{place}.inputs[{index}].shape", each["shape"], f"{_MOST} elements at most")
    _check_leaves(stored["input_structure"], stored["input_values"], len(inputs), f"{place}.input_structure")
    batch = stored.get("batch")
    if batch is None:
        return
    _distinct(batch["inputs"], f"{place}.batch.inputs")
    for index in batch["inputs"]:
        integer(0, len(inputs) - 1)(index, f"{place}.batch.inputs")
        if not inputs[index]["shape"]:
            raise ValueError(f"{place}.batch.inputs: input {index} has no batch")
    if batch["most"] is not None:
        integer(batch["least"], _MOST)(batch["most"], f"{place}.batch.most")


def _check_outputs(stored: Mapping[str, Any], place: str) -> None:
    outputs = stored["outputs"]
    _check_leaves(stored["output_structure"], stored["output_values"], outputs, f"{place}.output_structure")


def _check_leaves(structure: Mapping[str, Any], values: Sequence[Sequence[Any]], tensors: int, place: str) -> None:
    leaves = Structure.from_json(structure).leaves
    positions = [position for position, _ in values]
    if leaves != tensors + len(values) or positions != sorted({*positions} & {*range(leaves)}):
        raise ValueError(f"{place} has {leaves} leaves: there are {tensors} tensors, and values at {positions}")


def _check_record(stored: Mapping[str, Any], place: str) -> None:
    _distinct(stored["layers"], f"{place}.layers")
    own = method(stored["method"])
    if len(stored["values"]) != len(own.PARAMETERS):
        raise ValueError(
            f"{place} has {len(stored['values'])} values: {own.TITLE} has {len(own.PARAMETERS)} parameters"
        )
    for parameter, value in zip(own.PARAMETERS, stored["values"], strict=True):
        parameter.check(math.inf if value is None else value)
    own.check(record_of(stored))


def record_of(stored: Mapping[str, Any]) -> Record:
    """A record from its fields in the manifest."""
    values = tuple(math.inf if value is None else float(value) for value in stored["values"])
    return Record(stored["method"], tuple(stored["layers"]), values, stored["statistics"], dict(stored["data"]))


def _distinct(values: Sequence[Any], place: str) -> None:
    if len(set(values)) != len(values):
        raise ValueError(f"{place} has one of {values} twice")
