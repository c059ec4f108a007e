"""``Tuning``: what was measured, as a value that compiles use and files carry to other machines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Self

import tvm
from rich import box
from rich.table import Table
from rich.text import Text
from tvm.target import Target

from haste_compiler.codegen.cpu.kernels.dense import DenseTiling
from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.cpu.tiling import ConvTiling, RegisterTile, WinogradTiling
from haste_compiler.codegen.element import FLOAT32, Element
from haste_compiler.codegen.machine import Machine
from haste_compiler.codegen.target import machine_of, target_options
from haste_compiler.errors import TuningError
from haste_compiler.files import write_text
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.configs import Configs
from haste_compiler.methods.registry import names
from haste_compiler.text import as_text
from haste_compiler.version import __version__

_FORMAT = "haste-tuning"


@dataclass(frozen=True)
class DenseWork:
    """A dense convolution or linear layer, as far as its tiling depends on it.

    Attributes:
        geometry: its patch is 1×1.
        batch: images.
        winograd: largest side of Winograd's tiles that its configuration allows.
        element: of images and filters.
    """

    geometry: ConvGeometry
    batch: int
    winograd: int
    element: Element = FLOAT32

    @classmethod
    def of(cls, geometry: ConvGeometry, batch: int, winograd: int) -> Self:
        """The work of a layer of any patch."""
        return cls(dataclasses.replace(geometry, patch=(1, 1)), batch, winograd)

    def __str__(self) -> str:
        shape, (kh, kw), (height, width) = self.geometry, self.geometry.kernel, self.geometry.input_size
        stride = "" if shape.stride == (1, 1) else f", stride {shape.stride[0]}×{shape.stride[1]}"
        groups = "" if shape.groups == 1 else f", {shape.groups} groups"
        images = "" if self.batch == 1 else f", {self.batch} images"
        element = "" if self.element == FLOAT32 else f", {self.element.dtype}"
        size = f"{kh}×{kw} on {height}×{width}"
        return f"{shape.in_channels} → {shape.out_channels}, {size}{stride}{groups}{images}{element}"


@dataclass(frozen=True)
class Measured:
    """What was measured for one layer.

    Attributes:
        tiling: the fastest.
        seconds: its time.
        modelled_seconds: the time of the tiling that the model of the machine would have chosen.
        candidates: how many were tried.
    """

    tiling: DenseTiling
    seconds: float
    modelled_seconds: float
    candidates: int

    @property
    def algorithm(self) -> str:
        """How the convolution is computed."""
        return (
            f"Winograd {self.tiling.size}×{self.tiling.size}" if isinstance(self.tiling, WinogradTiling) else "direct"
        )


@dataclass(frozen=True)
class Tuning:
    """What ``tune`` found, for one target and number of threads; prints as a table.

    Attributes:
        target: what the kernels were compiled for.
        threads: that worked on each.
        layers: the fastest tiling of every dense convolution and linear layer that was measured.
        settings: what was measured to be fastest of what the methods' configurations leave open: by method and layer,
            the fields of the layer's override.
        skipped: layers that were left to the model because the time was up.
    """

    target: Target
    threads: int
    layers: Mapping[DenseWork, Measured] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    skipped: int = 0

    @property
    def patches(self) -> dict[str, tuple[int, int]]:
        """The patches, height and width, that were found, by layer."""
        return {
            layer: tuple(fields["patch_size"])
            for layers in self.settings.values()
            for layer, fields in layers.items()
            if "patch_size" in fields
        }

    def applied(self, machine: Machine) -> Machine:
        """A machine with these tilings, and the model's choice where nothing was measured."""
        assert isinstance(machine, Cpu)
        modelled = machine.choose_tiling

        def choose(geometry: ConvGeometry, batch: int, winograd: int) -> DenseTiling:
            known = self.layers.get(DenseWork.of(geometry, batch, winograd))
            return known.tiling if known else modelled(geometry, batch, winograd)

        return machine.with_tilings(choose)

    def configure(self, configs: Configs, layers: Collection[str]) -> Configs:
        """Configurations with the settings that were found, in those of ``layers`` for which they name none."""
        for config in configs.all:
            found = self.settings.get(config.METHOD, {})
            chosen = {
                name: fields
                for name, fields in found.items()
                if name in layers and all(getattr(config.for_layer(name), field) is None for field in fields)
            }
            configs = configs.replaced(config.overridden(chosen)) if chosen else configs
        return configs

    def check(self, machine: Machine) -> None:
        """Check that this was measured for a machine.

        Raises:
            TuningError: it is for another target or number of threads.
        """
        for name, mine, wanted in (
            ("target", str(self.target), str(machine.target)),
            ("threads", self.threads, machine.threads),
        ):
            if mine != wanted:
                raise TuningError(f"the tuning is for {name} {mine}, and can't be used for {name} {wanted}: tune anew")

    def save(self, path: str | PathLike[str]) -> None:
        """Write a JSON file that ``compile(..., tune=path)`` takes, here or on another machine."""
        write_text(path, json.dumps(self.to_dict(), indent=1))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read what ``save`` wrote.

        Raises:
            TuningError: the file can't be read, holds something else, or was written by another version.
        """
        try:
            stored = json.loads(Path(path).read_text())
            if stored["format"] != _FORMAT:
                raise ValueError(f"format {stored['format']!r}")
            written = dict(stored["versions"])
            if written != _versions():
                raise TuningError(f"{path} was made by {_said(written)}, installed is {_said(_versions())}: tune anew")
            layers, settings = read_layers(stored["layers"]), _settings(stored)
            return cls(Target(stored["target"]), int(stored["threads"]), layers, settings, int(stored["skipped"]))
        except OSError as error:
            raise TuningError(f"{path} can't be read: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TuningError(f"{path} holds no tuning: {type(error).__name__}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "format": _FORMAT,
            "versions": _versions(),
            "target": target_options(self.target),
            "threads": self.threads,
            "layers": write_layers(self.layers),
            "settings": dict(self.settings),
            "skipped": self.skipped,
        }

    def __repr__(self) -> str:
        """Tables as plain text."""
        parts: list[Table | Text] = []
        title = f"{len(self.layers)} layers measured with {self.threads} threads, for {machine_of(self.target).name}"
        table = Table(box=box.SIMPLE, title=title, title_justify="left")
        for name in ("layer", "algorithm"):
            table.add_column(name)
        for name in ("µs", "by the model, µs", "candidates"):
            table.add_column(name, justify="right")
        for work, each in self.layers.items():
            times = (f"{seconds * 1e6:.1f}" for seconds in (each.seconds, each.modelled_seconds))
            table.add_row(str(work), each.algorithm, *times, str(each.candidates))
        if self.layers:
            parts.append(table)
        for found in self.settings.values():
            for layer, fields in found.items():
                said = ", ".join(f"{name} {value}" for name, value in fields.items())
                parts.append(Text(f"{layer}: {said}"))
        if self.skipped:
            parts.append(Text(f"{self.skipped} layers were not measured in time"))
        return as_text(*parts)


def _settings(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The settings; older files hold patches of the one method that there was."""
    if "patches" not in stored:
        return {str(name): dict(layers) for name, layers in stored["settings"].items()}
    patches = {str(layer): {"patch_size": [int(side) for side in patch]} for layer, patch in stored["patches"].items()}
    return {names()[0]: patches} if patches else {}


def write_layers(layers: Mapping[DenseWork, Measured]) -> list[dict[str, Any]]:
    """Measurements as plain values."""
    return [{**dataclasses.asdict(work), **dataclasses.asdict(measured)} for work, measured in layers.items()]


def read_layers(stored: Sequence[Mapping[str, Any]]) -> dict[DenseWork, Measured]:
    """What ``write_layers`` made.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    layers = {}
    for each in stored:
        geometry, element = ConvGeometry(**each["geometry"]), _element(each)
        work = DenseWork(geometry, int(each["batch"]), int(each["winograd"]), element)
        seconds, modelled = float(each["seconds"]), float(each["modelled_seconds"])
        layers[work] = Measured(_tiling(each["tiling"]), seconds, modelled, int(each["candidates"]))
    return layers


def _tiling(stored: Mapping[str, Any]) -> DenseTiling:
    """What ``dataclasses.asdict`` made of a tiling."""
    tile = {**stored["tile"], "element": _element(stored["tile"])}
    rest = {**stored, "tile": RegisterTile(**tile)}
    if "direct" not in stored:
        return ConvTiling(**rest)
    return WinogradTiling(**{**rest, "direct": _tiling(stored["direct"])})


def _element(stored: Mapping[str, Any]) -> Element:
    """The element that something was stored with; all were float32 before they were told apart."""
    return Element(**stored["element"]) if "element" in stored else FLOAT32


def _versions() -> dict[str, str]:
    return {"haste_compiler": __version__, "tvm": tvm.__version__}


def _said(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
