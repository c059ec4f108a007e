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
FORMAT_VERSION = 5
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


_SPECIALIZATION = fields(
    {
        "inputs": sequence(fields({"shape": sequence(_count), "dtype": one_of(*_DTYPES)})),
        "input_values": _values,
        "input_structure": Structure.check,
        "outputs": _count,
        "output_structure": Structure.check,
        "output_values": _values,
        "records": sequence(_RECORD),
        "kernels": sequence(entries(text, text)),
        "fallbacks": sequence(fields({"layer": text, "program": _program})),
        "layers": sequence(_LAYER),
        "library": text,
        "constants": sequence(text),
    },
    {
        "batch": fields(
            {"name": text, "least": _size, "most": optional(_size), "inputs": sequence(_count, 1)},
        )
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
        one_of(libraries[-1])(each["library"], f"{place}.library")
        _check_inputs(each, place)
        _check_outputs(each, place)
        for number_, record in enumerate(each["records"]):
            _check_record(record, f"{place}.records[{number_}]")
    _check_files(manifest["files"], libraries)


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
