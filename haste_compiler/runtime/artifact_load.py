"""``load``: a saved network, ready to be called. PyTorch is needed only by those who call it with PyTorch's tensors."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
import tvm
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from haste_compiler.codegen.library import Code
from haste_compiler.codegen.loading import Library
from haste_compiler.codegen.machine import Machine
from haste_compiler.codegen.processor import missing_here
from haste_compiler.codegen.program import Program
from haste_compiler.codegen.stream_plan import StreamLayer, StreamPlan
from haste_compiler.codegen.target import machine_of, parse_target
from haste_compiler.errors import (
    ArtifactError,
    ArtifactTargetError,
    ArtifactVersionError,
    ConfigError,
    DamagedArtifactError,
    HasteError,
    InputError,
    MisfitError,
    TargetError,
    first_line,
    last_line,
)
from haste_compiler.fallback.call import NOT_DESCRIBED
from haste_compiler.fallback.record import Fallback
from haste_compiler.graph.dynamic import BatchRange
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.parameters import CONSTANT, Parameters
from haste_compiler.interrupts import deferred_interrupts
from haste_compiler.methods.configs import Configs
from haste_compiler.methods.explanation import Explanation, LayerChoice, described
from haste_compiler.methods.layers import ConvLayer
from haste_compiler.runtime.artifact_file import Artifact, reason
from haste_compiler.runtime.artifact_manifest import WEIGHTS, record_of
from haste_compiler.runtime.artifact_structure import Structure, value_from_json
from haste_compiler.runtime.artifact_ternary import unpack_ternary
from haste_compiler.runtime.device import on_device
from haste_compiler.runtime.executable import Executable, to_torch
from haste_compiler.runtime.fallbacks import explain_fallbacks
from haste_compiler.runtime.huge_pages import place
from haste_compiler.runtime.steerable import Steerable
from haste_compiler.runtime.stream import Stream, StreamCode, refuse_frame

Shape = tuple[int, ...]

Choices = tuple[tuple[LayerChoice, str, ConvGeometry | None], ...]
"""For each convolution, what was chosen, the graph's node, and its geometry."""

_MISFITS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, SafetensorError)
"""What reading a description raises that is none."""

_NO_ARGUMENT = "ErrorContext(fn=main, loc=param["
"""Where TVM says that an argument isn't what the code takes."""


@deferred_interrupts()
def load(path: str | PathLike[str]) -> LoadedModule:
    """Load a network that ``compiled.save(path)`` wrote.

    The file holds machine code, which runs with your rights: load only files that you would run.

    Raises:
        ArtifactError: the file can't be read; or, before any of its code is loaded:
        DamagedArtifactError: it is cut short, altered, or no saved network.
        ArtifactVersionError: a newer version of this package wrote it, or it needs another version of TVM.
        ArtifactTargetError: its code is for another processor.
    """
    with Artifact(path) as artifact:
        check_runs_here(artifact.described, str(path))
        parts = {name: artifact.part(name) for name in artifact.described["files"]}
    try:
        return _load(artifact, parts)
    except HasteError as error:
        raise _named(error, path) from None
    except _MISFITS as error:
        raise DamagedArtifactError(f"{path} doesn't describe a network: {reason(error)}") from None


def _named(error: HasteError, path: str | PathLike[str]) -> HasteError:
    """An error of loading, as one that names the file."""
    if isinstance(error, ConfigError | InputError):
        return DamagedArtifactError(f"{path} doesn't describe a network: {error}")
    return error if isinstance(error, ArtifactError) and str(path) in str(error) else ArtifactError(f"{path}: {error}")


def check_runs_here(manifest: Mapping[str, Any], path: str) -> None:
    """Check that a saved network's code runs with the TVM and on the processor of this machine.

    Raises:
        ArtifactVersionError, ArtifactTargetError: it doesn't.
    """
    needed = str(manifest["versions"]["tvm"])
    if needed.split(".")[:2] != tvm.__version__.split(".")[:2]:
        raise ArtifactVersionError(f"{path} needs TVM {needed}, installed is {tvm.__version__}")
    target = manifest["target"]
    missing = missing_here(target["architecture"], target["features"])
    # Of another architecture LLVM may know nothing.
    try:
        machine = None if missing else machine_of(parse_target(target["options"]))
    except (TargetError, TypeError) as error:
        raise DamagedArtifactError(f"{path} doesn't describe a network: {error}") from None
    missing = missing if machine is None else machine.missing()
    if missing:
        name = machine.name if machine is not None else target["options"].get("mcpu", target["architecture"])
        raise ArtifactTargetError(
            f"{path} was compiled for {name}: this machine has no {', '.join(missing)}; compile it for this one"
        )


def _load(artifact: Artifact, parts: Mapping[str, bytes]) -> LoadedModule:
    described = artifact.described
    target = parse_target(described["target"]["options"])
    # Whatever can be wrong is found before code is loaded.
    configs = Configs.from_dict(described["configs"])
    stored_weights = load_tensors(parts[WEIGHTS])
    for name, shape in described["ternary"].items():
        stored_weights[name] = unpack_ternary(stored_weights[name], shape)
    machine = machine_of(target, described["threads"])
    placed = (
        on_device(tvm.runtime.from_dlpack(array), machine.device) for array in place(list(stored_weights.values()))
    )
    # Specializations share them, so they are placed once for all.
    weights = dict(zip(stored_weights, placed, strict=True))
    stored_parts = described["specializations"]
    programs = [_program(stored, stored["outputs"], weights) for stored in stored_parts]
    streams = [_stream(stored, weights) for stored in stored_parts]
    layers = [tuple(map(_choice, stored["layers"])) for stored in stored_parts]

    def executable(stored: Mapping[str, Any], program: Program, inputs: int) -> Executable:
        library = stored["library"]
        try:
            with machine.compiling(parts.get(library.replace(".so", ".fatbin"))):
                code = Code(Library(parts[library]).module, target)
        except OSError as error:
            raise ArtifactError(f"the machine code can't be loaded: {last_line(error)}") from None
        made = Executable(code, program, machine.threads)
        arguments = inputs + len(program.records) + len(program.constants)
        if made.arity != arguments:
            raise ValueError(f"{library} takes {made.arity} arguments, and {arguments} are described")
        return made

    made, fitting = [], partial(_fitting, artifact.path)
    for stored, program, stream, choices in zip(stored_parts, programs, streams, layers, strict=True):
        inputs = len(stored["inputs"])
        part = _part(stored, executable(stored, program, inputs), choices)
        if stream is not None:
            of_stream, plan = stream
            begun = executable(stored["stream"], of_stream, inputs + 1 + len(plan.states))
            part = replace(part, stream=StreamCode(begun, part.executable, plan, part.build, fitting))
        made.append(part)
    return LoadedModule(made, configs, machine, artifact)


@dataclass(frozen=True)
class LoadedPart:
    """A saved network for one input signature.

    Attributes:
        executable: its code.
        shapes: of the inputs' tensors.
        dtypes: of the same, by NumPy's names.
        inputs: structure of the positional arguments.
        constants: those that are no tensors, by their position among the leaves.
        outputs: structure of what it returns.
        values: outputs that are no tensors, by their position among the outputs' leaves.
        choices: see ``Choices``.
        stream: its code for streams; None: it was saved without.
    """

    executable: Executable
    shapes: tuple[Shape, ...]
    dtypes: tuple[str, ...]
    inputs: Structure
    constants: tuple[tuple[int, Any], ...]
    outputs: Structure
    values: tuple[tuple[int, Any], ...]
    choices: Choices
    stream: StreamCode | None = None

    def takes(self, shapes: Sequence[Shape]) -> bool:
        """Whether these are its inputs' shapes, but for a dynamic batch.

        Raises:
            InputError: they are, but the batch is out of range.
        """
        batch = self.executable.batch
        if batch is None or not batch.fits(shapes, self.shapes):
            return tuple(shapes) == self.shapes
        batch.check(shapes)
        return True

    def __str__(self) -> str:
        """The shapes that it takes."""
        batch = self.executable.batch
        names = [
            [batch.name, *shape[1:]] if batch is not None and index in batch.inputs else shape
            for index, shape in enumerate(self.shapes)
        ]
        return _described(names) + (f" ({batch.name} {batch})" if batch is not None else "")

    @property
    def dense_layers(self) -> dict[str, str]:
        """Of the convolutions that no method takes, why."""
        return {choice.name: choice.reason for choice, _, _ in self.choices if choice.method is None}

    def build(self, tensors: Sequence[Any]) -> Any:
        """What the network returns, from the tensors that the machine code made."""
        leaves = list(tensors)
        for position, value in self.values:
            leaves.insert(position, value)
        return self.outputs.build(leaves)


def _program(stored: Mapping[str, Any], outputs: int, weights: Mapping[str, Any]) -> Program:
    return Program(
        [weights[name] for name in stored["constants"]],
        list(map(record_of, stored["records"])),
        outputs,
        [(symbol, layer) for symbol, layer in stored["kernels"]],
        _batch(stored["batch"]) if "batch" in stored else None,
        fallbacks=[Fallback(**each) for each in stored["fallbacks"]],
    )


def _stream(stored: Mapping[str, Any], weights: Mapping[str, Any]) -> tuple[Program, StreamPlan] | None:
    """Of streams of a specialization, how to call their code; None: it was saved without."""
    if "stream" not in stored:
        return None
    stream = stored["stream"]
    plan = StreamPlan(
        tuple((tuple(state["shape"]), state["dtype"]) for state in stream["states"]),
        tuple(StreamLayer(**layer) for layer in stream["tiles"]),
        stream["most_work"],
    )
    return _program(stream, stored["outputs"], weights), plan


def _part(stored: Mapping[str, Any], executable: Executable, choices: Choices) -> LoadedPart:
    return LoadedPart(
        executable,
        tuple(tuple(item["shape"]) for item in stored["inputs"]),
        tuple(item["dtype"] for item in stored["inputs"]),
        Structure.from_json(stored["input_structure"]),
        tuple((position, value_from_json(value)) for position, value in stored["input_values"]),
        Structure.from_json(stored["output_structure"]),
        tuple((position, value_from_json(value)) for position, value in stored["output_values"]),
        choices,
    )


@contextlib.contextmanager
def _fitting(path: str | PathLike[str]) -> Iterator[None]:
    """Say it in the project's words where a file's description doesn't fit the machine code that is called."""
    try:
        yield
    except Exception as error:
        said = str(error)
        if not isinstance(error, MisfitError) and _NO_ARGUMENT not in said and NOT_DESCRIBED not in said:
            raise
        raise ArtifactError(
            f"{path} describes another network than its machine code computes: {first_line(error)}"
        ) from None


def _parameters(stored: Mapping[str, Any]) -> Parameters:
    defaults = {name: value_from_json(value) for name, value in stored["defaults"].items()}
    return Parameters(tuple(stored["names"]), defaults, frozenset(stored["optional"]), stored["more"])


def _batch(stored: Mapping[str, Any]) -> BatchRange:
    return BatchRange(stored["name"], stored["least"], stored["most"], tuple(stored["inputs"]))


def _choice(stored: Mapping[str, Any]) -> tuple[LayerChoice, str, ConvGeometry | None]:
    geometry = stored["geometry"]
    return LayerChoice.from_dict(stored["choice"]), stored["node"], geometry and ConvGeometry(**geometry)


class LoadedModule(Steerable):
    """A saved network, called like the compiled one it was made from.

    It takes inputs of the shapes that it was saved for: PyTorch tensors, for which it returns such, or NumPy arrays,
    for which it returns arrays. Calls from several threads are safe. The methods' parameters, such as ``tolerance``,
    steer it between two calls, see ``Steerable``; they begin with what they were when it was saved.
    """

    def __init__(self, parts: Sequence[LoadedPart], configs: Configs, machine: Machine, artifact: Artifact) -> None:
        super().__init__(configs, machine.target)
        self._made, self._manifest, self._path = list(parts), artifact.manifest, artifact.path
        self._name, self._threads = artifact.described["name"], machine.threads
        self._parameters = _parameters(artifact.described["parameters"])

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the network.

        Args:
            inputs: positional arguments, of a signature that it was saved for.
            named: the same, by the names of the model's arguments.

        Returns:
            What the model returns: the same structure, new tensors or arrays.

        Raises:
            InputError: an input has a structure, dtype, shape or device that the network wasn't saved for.
        """
        made, tensors, convert = self._for_inputs(inputs, named)
        with _fitting(self._path):
            outputs, _ = made.executable.run(tensors, convert)
        return made.build(outputs)

    def stats(self, *inputs: Any, **named: Any) -> dict[str, Any]:
        """Run the network and return what each layer of a method did, by layer name, in order."""
        return self.run_with_stats(*inputs, **named)[1]

    def run_with_stats(self, *inputs: Any, **named: Any) -> tuple[Any, dict[str, Any]]:
        """Run the network once and return what ``loaded(...)`` and ``loaded.stats(...)`` do."""
        made, tensors, convert = self._for_inputs(inputs, named)
        with _fitting(self._path):
            outputs, stats = made.executable.run_with_stats(tensors, convert)
        return made.build(outputs), stats

    def stream(self, tolerance: float = 0.05, refresh: int | None = None) -> Stream:
        """Begin a stream, see ``CompiledModule.stream``.

        Raises:
            ConfigError: the tolerance is negative, or ``refresh`` is no positive number.
            HasteError: the network was saved without streams.
        """
        if self._made[-1].stream is None:
            raise HasteError(
                f"{self._path} was saved without streams: save it with compiled.save(path, streams=True), or by "
                "`haste compile --streams`"
            )
        return Stream(self._stream_code, tolerance, refresh)

    def _stream_code(
        self, inputs: Sequence[Any], named: Mapping[str, Any], begun: StreamCode | None
    ) -> tuple[StreamCode, list[Any], Callable[[Any], Any]]:
        """The code of streams of these inputs, see ``CodeFor``."""
        made, tensors, convert = self._for_inputs(inputs, named)
        assert made.stream is not None
        if begun is not None and made.stream is not begun:
            raise refuse_frame(made.shapes)
        return made.stream, tensors, convert

    def profile(self, *inputs: Any, **named: Any) -> dict[str, float]:
        """Run the network and return the seconds spent by layer name; other kernels go under their own name."""
        made, tensors, convert = self._for_inputs(inputs, named)
        with _fitting(self._path):
            return made.executable.profile(tensors, convert)

    def explain(self) -> Explanation:
        """For every convolution the method that takes it, and why; and what PyTorch runs. It prints as a table.

        Where PyTorch runs a part of the network, that is run twice on zeros, to see what share of the time it takes.
        """
        made = self._made[-1]
        fallbacks = explain_fallbacks(made.executable, made.shapes, made.dtypes)
        return Explanation(tuple(choice for choice, _, _ in made.choices), fallbacks)

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What the file says of itself: versions, target, configuration, input signatures, layers."""
        return self._manifest

    @property
    def layers(self) -> list[ConvLayer]:
        """Every convolution, the method that takes it, and why."""
        return [
            ConvLayer(
                choice.name, node, geometry, choice.method, choice.reason, kind=choice.kind, setting=choice.setting
            )
            for choice, node, geometry in self._made[-1].choices
        ]

    @property
    def groupings(self) -> list[tuple[str, ...]]:
        """The methods' layers by record: those that share one are steered together."""
        return [record.layers for record in self._made[-1].executable.records]

    @property
    def threads(self) -> int:
        """Threads that a call uses; work was cut for them."""
        return self._threads

    @property
    def shapes(self) -> list[tuple[Shape, ...]]:
        """Shapes of the inputs' tensors, for each signature that it was saved for."""
        return [part.shapes for part in self._made]

    @property
    def dense(self) -> LoadedModule:
        """A saved network has no dense compile.

        Raises:
            HasteError: always.
        """
        raise HasteError(f"a saved {self._name} has no dense compile to be timed against: pass time=False")

    def _parts(self) -> list[LoadedPart]:
        return self._made

    def _for_inputs(
        self, inputs: Sequence[Any], named: Mapping[str, Any]
    ) -> tuple[LoadedPart, list[Any], Callable[[Any], Any]]:
        """The code for these inputs, what to run it on, and what makes its outputs the caller's kind of tensor."""
        inputs = self._parameters.positional(inputs, named)
        structure = Structure.of(inputs)
        leaves = list(structure.flatten(inputs))
        constants = tuple((place, leaf) for place, leaf in enumerate(leaves) if isinstance(leaf, CONSTANT))
        leaves = [leaf for leaf in leaves if not isinstance(leaf, CONSTANT)]
        # Written out, 1 isn't 1.0 or True, and NaN is NaN.
        alike = [part for part in self._made if part.inputs == structure and repr(part.constants) == repr(constants)]
        if not alike:
            counts = sorted({len(part.shapes) for part in self._made})
            values = [value for part in self._made for _, value in part.constants]
            raise InputError(
                f"{self._name} wasn't saved for inputs like these: it takes {' or '.join(map(str, counts))} tensors in "
                f"the containers that it was compiled with{f', and the values {values}' if values else ''}"
            )
        known = alike[0]
        if any(map(_is_torch, leaves)):
            tensors, convert = _prepare_torch(leaves, known), to_torch
        else:
            tensors, convert = _prepare_numpy(leaves, known), _to_numpy
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        for part in alike:
            if part.takes(shapes):
                return part, tensors, convert
        saved = "; ".join(map(str, alike))
        raise InputError(f"{self._name} was saved for inputs of shape {saved}, not {_described(shapes)}")

    def __reduce__(self) -> Any:
        raise HasteError(
            f"a loaded {self._name} can't be pickled or copied: its machine code belongs to this process; load "
            f"{self._path} again"
        )

    def __repr__(self) -> str:
        choices = self._made[-1].choices
        state = described([choice for choice, _, _ in choices])
        return f"LoadedModule({self._name}, {state}, target={self.target})"


def _is_torch(leaf: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(leaf, torch.Tensor)


def _prepare_torch(leaves: Sequence[Any], known: LoadedPart) -> list[Any]:
    import torch

    from haste_compiler.runtime.inputs import Signature, prepare

    signature = Signature(known.shapes, tuple(getattr(torch, name) for name in known.dtypes), "")
    return list(prepare(leaves, signature, machine_of(known.executable.code.target).torch_devices))


def _prepare_numpy(leaves: Sequence[Any], known: LoadedPart) -> list[Any]:
    arrays = []
    for index, (leaf, dtype, shape) in enumerate(zip(leaves, known.dtypes, known.shapes, strict=True)):
        if not isinstance(leaf, np.ndarray):
            raise InputError(f"input {index} is {type(leaf).__name__}: allowed are PyTorch tensors and NumPy arrays")
        if leaf.dtype != np.dtype(dtype):
            raise InputError(f"input {index} is {leaf.dtype}: the network takes {dtype}")
        if leaf.ndim != len(shape):
            raise InputError(
                f"input {index} has shape {leaf.shape}, rank {leaf.ndim}: "
                f"the network takes rank {len(shape)}, such as {shape}"
            )
        arrays.append(np.asarray(leaf, order="C"))
    return arrays


def _to_numpy(tensor: Any) -> Any:
    return tensor.numpy()


def _described(shapes: Sequence[Sequence[Any]]) -> str:
    return ", ".join("x".join(map(str, shape)) or "()" for shape in shapes)
