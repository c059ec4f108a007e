"""Manifests of older formats, brought up to the newest."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from haste_compiler.methods.explanation import LayerChoice
from haste_compiler.methods.registry import method, names
from haste_compiler.runtime.artifact_manifest import FORMAT_VERSION


def upgraded(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest as the newest format has it.

    Raises:
        LookupError, TypeError, ValueError, AttributeError, ArithmeticError: it is something else.
    """
    made = dict(manifest)
    if made["format_version"] < 2:
        made = _with_methods(made)
    if made["format_version"] < 4:
        made = _with_names(made)
    if made["format_version"] < 5:
        made = _with_choices(made)
    if made["format_version"] < 7:
        # Before, all weights were kept as they are.
        made = {"ternary": {}, **made}
    return {**made, "format_version": FORMAT_VERSION}


def _with_methods(old: dict[str, Any]) -> dict[str, Any]:
    """Format 1 knew one method."""
    made = {**old, "configs": {names()[0]: old["config"]}, "specializations": []}
    del made["config"]
    for each in old["specializations"]:
        part = dict(each)
        part["records"] = [_record(group) for group in part.pop("groups")]
        made["specializations"].append(part)
    return made


def _record(group: Mapping[str, Any]) -> dict[str, Any]:
    record = dataclasses.asdict(method(names()[0]).upgraded(group))
    values = [None if math.isinf(value) else value for value in record["values"]]
    # Tuples become lists, as they are in a file.
    made: dict[str, Any] = json.loads(json.dumps({**record, "values": values}))
    return made


def _with_names(old: dict[str, Any]) -> dict[str, Any]:
    """Format 2 had nothing that PyTorch runs, and it and the first files of format 3 no inputs' names and constants."""
    parameters = {"names": [], "defaults": {}, "optional": [], "more": True}
    parts = [{"input_values": [], "fallbacks": [], **each} for each in old["specializations"]]
    return {"parameters": parameters, **old, "specializations": parts}


def _with_choices(old: dict[str, Any]) -> dict[str, Any]:
    """Before format 4 all layers were convolutions, and methods computed them one way; before 5 no share of the
    outputs' error was kept."""

    def layer(stored: Mapping[str, Any]) -> dict[str, Any]:
        return {**stored, "choice": vars(LayerChoice.from_dict(stored["choice"]))}

    parts = [{**each, "layers": list(map(layer, each["layers"]))} for each in old["specializations"]]
    return {**old, "specializations": parts}
