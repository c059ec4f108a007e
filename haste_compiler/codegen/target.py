"""Which target a user means, and the ``Machine`` for it: a folder each, imported when it is first asked for."""

from __future__ import annotations

import importlib
import json
import shlex
from collections.abc import Mapping
from typing import Any, TypeAlias

from tvm.target import Target

from haste_compiler.codegen.machine import Machine
from haste_compiler.errors import TargetError, first_line

TargetLike: TypeAlias = str | Mapping[str, Any] | Target

FOLDERS = {"llvm": "cpu", "cuda": "cuda"}
"""The folder of ``codegen`` that makes code for each kind of TVM's targets."""


def parse_target(target: TargetLike) -> Target:
    """Turn a target string, TVM's dict form or a ``Target`` into a complete TVM target.

    ``"llvm"`` is the machine this runs on, with its own instruction set. ``"llvm -mcpu=haswell"`` and the dict form
    ``{"kind": "llvm", "mcpu": "haswell"}`` name another. ``"cuda"`` is this machine's card (without one: sm_80), with
    this machine as its host; ``"cuda -arch=sm_90"`` names another.

    Raises:
        TargetError: the kind is unknown, an option is malformed, or LLVM doesn't know the CPU or its architecture.
    """
    if isinstance(target, str):
        options = _parse_string(target)
    elif isinstance(target, Target):
        options = {"kind": str(target.kind.name)}
    elif isinstance(target, Mapping):
        options = dict(target)
    else:
        raise TargetError(f"the target is {type(target).__name__}: allowed are a string, a mapping and a tvm Target")
    kind = options.get("kind")
    if kind not in FOLDERS:
        raise TargetError(
            f"unknown target {kind!r}: allowed are {' and '.join(map(repr, FOLDERS))} (with options as in "
            "'llvm -mcpu=haswell' and 'cuda -arch=sm_90', or TVM's dict form)"
        )
    machine = _machine_class(kind)
    if isinstance(target, Target):
        given = machine.given(target)
        if given is None:
            return target
        options = given
    try:
        return Target(machine.parse(options))
    except TargetError:
        raise
    except Exception as error:
        raise TargetError(f"target {target!r} is refused: {first_line(error)}") from None


def own_precisions(target: TargetLike) -> tuple[str, ...]:
    """The precisions of products that a target has of its own, whatever methods add.

    Raises:
        TargetError: see ``parse_target``.
    """
    return _machine_class(str(parse_target(target).kind.name)).PRECISIONS


def machine_of(target: Target, threads: int = 1, precision: str | None = None) -> Machine:
    """The machine that a complete target means.

    Args:
        target: what ``parse_target`` returned.
        threads: threads that work on a network there.
        precision: of products, see ``compile``; None: the target's own choice.

    Raises:
        ConfigError: the target doesn't have the precision.
    """
    return _machine_class(str(target.kind.name))(target, threads, precision)


def target_options(target: Target) -> dict[str, Any]:
    """What makes the same target again."""
    derived = ("keys", "tag")
    options = json.loads(str(target))
    return {key: value for key, value in options.items() if key not in derived and not key.startswith("feature.")}


def _machine_class(kind: str) -> type[Machine]:
    module = importlib.import_module(f"haste_compiler.codegen.{FOLDERS[kind]}.machine")
    found: type[Machine] = module.MACHINE
    return found


def _parse_string(text: str) -> dict[str, Any]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise TargetError(f"target {text!r} is malformed: {str(error).lower()}") from None
    if not words:
        raise TargetError("the target is empty: allowed are 'llvm' and 'cuda', with options such as '-mcpu=haswell'")
    options: dict[str, Any] = {"kind": words[0]}
    for word in words[1:]:
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or not equals or not value:
            raise TargetError(
                f"target option {word!r} in {text!r} is malformed: write -name=value, for example -mcpu=haswell"
            )
        options[name] = value.split(",") if name == "mattr" else int(value) if value.isdigit() else value
    return options
