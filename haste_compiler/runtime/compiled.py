"""``CompiledModule``: what ``haste_compiler.compile`` returns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_unflatten

from haste_compiler.codegen.machine import Machine
from haste_compiler.codegen.stream_plan import StreamPlan
from haste_compiler.errors import ArtifactError, HasteError, InputError, first_line
from haste_compiler.graph.capture import evaluation_mode
from haste_compiler.graph.checksums import changed, checksums
from haste_compiler.graph.parameters import Parameters
from haste_compiler.interrupts import deferred_interrupts
from haste_compiler.methods.configs import Configs
from haste_compiler.methods.explanation import Explanation, described
from haste_compiler.methods.layers import ConvLayer
from haste_compiler.runtime.artifact_save import Saved, save
from haste_compiler.runtime.executable import Executable, to_torch
from haste_compiler.runtime.fallbacks import explain_fallbacks
from haste_compiler.runtime.inputs import PlainKey, Signature, known_like, plain_key, prepare, signature_of, split
from haste_compiler.runtime.specialization import Specialization
from haste_compiler.runtime.steerable import Steerable
from haste_compiler.runtime.stream import Stream, StreamCode, refuse_frame
from haste_compiler.runtime.torch_threads import with_torch

log = logging.getLogger(__name__)


Specialize = Callable[[Sequence[Any], Configs, Callable[[], None]], Specialization]
"""Compiles the network for example inputs under configurations, and calls a function once it is known that they fit."""


SpecializeStream = Callable[[Sequence[Any], Configs], tuple[Executable, StreamPlan]]
"""Compiles the network for streams of inputs like these."""


class Reporting(Protocol):
    """Makes a report."""

    def __call__(self, compiled: CompiledModule, model: nn.Module, inputs: Any, **options: Any) -> Any:
        """See ``CompiledModule.report``."""


class CompiledModule(Steerable):
    """A compiled network, called like the model it was made from (in evaluation mode, without gradients).

    It is compiled for each new combination of input shapes at the first call with them, or by ``prepare``; for all
    batches at once if that was asked for. A call that has to wait for that warns of it in the log. Calls from several
    threads are safe; those with inputs of the same shapes take turns.

    The methods' parameters, such as ``tolerance``, steer it between two calls, see ``Steerable``.

    It computes with the weights that the model had when it was first compiled, for all shapes; see ``refresh``.
    """

    def __init__(
        self,
        model: nn.Module,
        specialize: Specialize,
        configs: Configs,
        machine: Machine,
        specialize_stream: SpecializeStream,
        reporting: Reporting,
    ) -> None:
        super().__init__(configs, machine.target)
        self._specialize_stream, self._reporting = specialize_stream, reporting
        self._machine = machine
        self._model, self._specialize = model, specialize
        self._name, self._parameters = type(model).__name__, Parameters.of(model)
        self._made: dict[Signature, Specialization] = {}
        # The same, for tensors that come as the code takes them: looking those up costs next to nothing.
        self._plain: dict[PlainKey, Specialization] = {}
        self._streams: dict[Signature, StreamCode] = {}
        self._dense: CompiledModule | None = None
        # The network that this is the dense compile of.
        self._merging: CompiledModule | None = None
        self._weights: dict[str, int] | None = None

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the network.

        Args:
            inputs: the model's positional arguments: tensors in any memory layout, containers of tensors, and numbers,
                text and None, for whose values it is compiled.
            named: the same, by the names of the model's arguments.

        Returns:
            What the model returns: the same structure, new tensors.

        Raises:
            InputError: an input has a dtype, rank or device that the network doesn't take.
            CaptureError: the model can't be captured with inputs of these shapes.
            UnsupportedOperatorError: it has an operator that can't be compiled.
            HasteError: it has to be compiled for these shapes, and the model's weights aren't what they were.
        """
        made, tensors = self._for_inputs(inputs, named)
        if made is None:
            return self._run_empty(inputs, named)
        outputs, _ = made.executable.run(tensors)
        return made.build(outputs)

    def stats(self, *inputs: Any, **named: Any) -> dict[str, Any]:
        """Run the network and return what each layer of a method did, by layer name, in order."""
        return self.run_with_stats(*inputs, **named)[1]

    def run_with_stats(self, *inputs: Any, **named: Any) -> tuple[Any, dict[str, Any]]:
        """Run the network once and return what ``compiled(...)`` and ``compiled.stats(...)`` do."""
        made, tensors = self._for_inputs(inputs, named)
        if made is None:
            return self._run_empty(inputs, named), {}
        outputs, stats = made.executable.run_with_stats(tensors)
        return made.build(outputs), stats

    def profile(self, *inputs: Any, **named: Any) -> dict[str, float]:
        """Run the network and return the seconds spent by layer name; other kernels go under their own name."""
        made, tensors = self._for_inputs(inputs, named)
        return {} if made is None else made.executable.profile(tensors)

    def prepare(self, *inputs: Any, **named: Any) -> None:
        """Compile for inputs like these now, so that the first call doesn't have to."""
        self._for_inputs(inputs, named, asked=True)

    def stream(self, tolerance: float = 0.05, refresh: int | None = None) -> Stream:
        """Begin a stream: frames of one camera, or of a batch of them, of which only what changed is computed anew.

        Streams are independent of each other. They share the machine code, which is made when the first frame of its
        shape comes, and its weights. While most of every frame moves, the network itself computes the frames. Tiles are
        computed in float32, also where the network is compiled for int8 or bfloat16.

        Args:
            tolerance: a tile of a convolution's outputs stays as it is while what it reads has moved by no more than
                this since it was computed, over what such a window has on average, by the norm; pixels of a frame are
                left as they are within half of it. 0: outputs are those of the network, to the bit.
            refresh: compute everything anew every so many frames; None: never. Errors don't add up without.

        Raises:
            ConfigError: the tolerance is negative, or ``refresh`` is no positive number.
        """
        return Stream(self._stream_code, tolerance, refresh)

    def report(
        self, inputs: Any, model: nn.Module | None = None, *, search: Any = None, labels: Any = None, **options: Any
    ) -> Any:
        """Compare with the original on some images, look into every layer, and tell it all on a page.

        Args:
            inputs: a tensor, a tuple of arguments, or an iterable of such batches, as ``validate`` takes them. Layers
                are looked at in the first image.
            model: the original; None: what this was compiled from.
            search: what ``search`` returned: its curve is drawn.
            labels: as of ``validate``.
            options: ``rounds``, how often each network is timed, 10 by default; ``limits``, a dictionary of those of
                ``validate`` that the first numbers are held against (missing one is no error); ``progress``.

        Returns:
            A ``Report``: ``save("report.html")`` writes the page, ``evidence`` holds the numbers.

        Raises:
            HasteError: what a page is drawn with isn't installed.
            InputError, CaptureError, ValidationError: as of ``validate``.
        """
        given = self._model if model is None else model
        return self._reporting(self, given, inputs, search=search, labels=labels, **options)

    def refresh(self) -> None:
        """Take the model's weights as they are now: each shape is compiled anew when it next comes.

        What was steered stays. The machine code doesn't depend on weights and comes from the cache.
        """
        with self._lock.lock:
            self._made, self._plain, self._streams, self._dense, self._weights = {}, {}, {}, None, None

    @property
    def dense(self) -> CompiledModule:
        """The same network compiled without any method: what its speed is compared with."""
        if self.configs.is_dense:
            return self
        if self._dense is None:
            self._dense = CompiledModule(
                self._model, self._specialize, Configs.dense(), self._machine, self._specialize_stream, self._reporting
            )
            self._dense._merging, self._dense._weights = self, self._weights
        return self._dense

    @property
    def threads(self) -> int:
        """Threads that a call uses. Work was cut for them: compile again to use another number."""
        return self._machine.threads

    @property
    def layers(self) -> list[ConvLayer]:
        """Every convolution, the method that takes it, and why; empty until the network is compiled."""
        return self._last().layers if self._made else []

    @property
    def groupings(self) -> list[tuple[str, ...]]:
        """The methods' layers by record: those that share one are steered together; empty until it is compiled."""
        return [record.layers for record in self._last().executable.records] if self._made else []

    def explain(self) -> Explanation:
        """For every convolution the method that takes it, and why; and what PyTorch runs. It prints as a table.

        Where PyTorch runs a part of the network, that is run twice on zeros, to see what share of the time it takes.

        Raises:
            InputError: the network is not compiled yet.
        """
        if not self._made:
            raise InputError(f"{self._name} is not compiled yet: call it, or prepare(), with inputs first")
        signature, made = list(self._made.items())[-1]
        dtypes = [str(dtype).removeprefix("torch.") for dtype in signature.dtypes]
        return Explanation.of(made.layers, explain_fallbacks(made.executable, signature.shapes, dtypes))

    @property
    def graphs(self) -> dict[str, str]:
        """The graph as text after capture and after each pass, by name; empty until the network is compiled."""
        return self._last().graphs if self._made else {}

    @deferred_interrupts()
    def save(self, path: str | PathLike[str], streams: bool = False) -> None:
        """Write machine code, weights and settings to one file that ``haste_compiler.load`` runs without the model.

        The file holds the network for the input shapes it was compiled for so far, with the settings that it is steered
        to now. It is written under another name first, so that there never is half a file.

        Args:
            path: of the file, such as "net.haste".
            streams: with the code of streams of these input shapes, which is compiled if need be: the loaded network
                has ``stream`` too. The file holds the filters of most layers twice then.

        Raises:
            ArtifactError: the network is not compiled yet, returns something that can't be described in JSON, or the
                file can't be written; or there are to be streams, and it was compiled for any batch.
            TargetError: there is no linker for the target, or it has no streams.
            UnsupportedOperatorError: there are to be streams, and no convolution of which a part could be computed.
        """
        with self._lock.lock:
            made = dict(self._made)
            found = {signature: self._stream_like(signature, each) for signature, each in made.items() if streams}
        save(path, Saved(self._name, self._parameters, self.configs, self._machine), made, found)

    def _parts(self) -> list[Specialization]:
        return list(self._made.values())

    def _last(self) -> Specialization:
        return list(self._made.values())[-1]

    def _for_inputs(
        self, inputs: Sequence[Any], named: Mapping[str, Any], asked: bool = False
    ) -> tuple[Specialization | None, list[Tensor]]:
        """The code for these inputs, compiled if need be (None for an empty batch), and the tensors to run it on."""
        key = plain_key(inputs) if not named and len(self._machine.torch_devices) == 1 else None
        made = self._plain.get(key) if key is not None else None
        if made is not None:
            return made, list(inputs)
        leaves, structure = split(self._parameters.positional(inputs, named))
        tensors = prepare(leaves, known_like(list(self._made), structure), self._machine.torch_devices)
        signature = signature_of(tensors, structure)
        if any(tensor.numel() == 0 for tensor in tensors):
            return None, tensors
        made = self._find(signature)
        if made is None:
            with self._lock.lock:
                made = self._find(signature)
                if made is None:
                    made = self._make(signature, structure.inputs(tensors), asked)
                    self._steer_new(made, list(self._made.values()))
                    self._made[signature] = made
        if key is not None:
            self._plain[key] = made
        return made, tensors

    def _stream_code(
        self, inputs: Sequence[Any], named: Mapping[str, Any], begun: StreamCode | None
    ) -> tuple[StreamCode, list[Tensor], Callable[[Any], Any]]:
        """The code of streams of these inputs, compiled if need be, see ``CodeFor``.

        Raises:
            InputError: a stream that has ``begun`` with some code takes no such inputs.
        """
        leaves, structure = split(self._parameters.positional(inputs, named))
        known = known_like(list(self._made), structure)
        tensors = prepare(leaves, known, self._machine.torch_devices)
        if any(tensor.numel() == 0 for tensor in tensors):
            raise InputError("a frame of a stream has no pixels")
        signature = signature_of(tensors, structure)
        if begun is not None and self._streams.get(signature) is not begun:
            raise refuse_frame([tensor.shape for tensor in tensors])
        with self._lock.lock:
            if signature not in self._streams:
                given = structure.inputs(tensors)
                made, _ = self._for_inputs(given, {}, asked=True)
                assert made is not None
                self._streams[signature] = self._make_stream(made, given)
        return self._streams[signature], tensors, to_torch

    def _make_stream(self, made: Specialization, inputs: Sequence[Any]) -> StreamCode:
        """Compile for streams what was compiled."""
        executable, plan = with_torch(lambda: self._compiled_stream(inputs))
        return StreamCode(executable, made.executable, plan, made.build)

    def _stream_like(self, signature: Signature, made: Specialization) -> StreamCode:
        """The code of streams of a signature that the network was compiled for, compiled if need be."""
        if made.executable.batch is not None:
            raise ArtifactError(
                f"{self._name} is compiled for any batch, and streams are of fixed shapes: compile it without dynamic"
            )
        if signature not in self._streams:
            leaves: list[Any] = list(map(torch.zeros, signature.shapes))
            leaves = [leaf.to(dtype) for leaf, dtype in zip(leaves, signature.dtypes, strict=True)]
            for position, value in signature.constants:
                leaves.insert(position, value)
            inputs, _ = tree_unflatten(leaves, made.in_spec)
            self._streams[signature] = self._make_stream(made, inputs)
        return self._streams[signature]

    @deferred_interrupts()
    def _compiled_stream(self, inputs: Sequence[Any]) -> tuple[Executable, StreamPlan]:
        self._check_weights()
        return self._specialize_stream(inputs, self.configs)

    def _make(self, signature: Signature, inputs: Sequence[Any], asked: bool) -> Specialization:
        """Compile; where no method took a layer, the dense code is that which is there already."""
        made = self._merging._find(signature) if self._merging is not None else None
        if made is not None and all(layer.method is None for layer in made.layers):
            return made
        return with_torch(lambda: self._compiled(inputs, lambda: None if asked else self._tell_of(signature)))

    @deferred_interrupts()
    def _compiled(self, inputs: Sequence[Any], fit: Callable[[], None]) -> Specialization:
        self._check_weights()
        return self._specialize(inputs, self.configs, fit)

    def _tell_of(self, signature: Signature) -> None:
        """Say that a call has to wait for the compiler."""
        shapes = ", ".join("x".join(map(str, shape)) for shape in signature.shapes)
        hint = "; dynamic=True compiles once for all batches" if self._made else ""
        log.warning("compiling %s for %s, which takes some seconds%s", self._name, shapes, hint)

    def _check_weights(self) -> None:
        """Check that the model's weights are those that other shapes were compiled with."""
        if self._weights is None:
            self._weights = checksums(self._model)
        elif names := changed(self._model, self._weights):
            raise HasteError(
                f"{names[0]} of {self._name} isn't what it was when the network was compiled, and other shapes still "
                "compute with what it was: call refresh() to take the new weights for all"
            )

    def _find(self, signature: Signature) -> Specialization | None:
        """The code for inputs of a signature: for just that, or for any batch of it."""
        if signature in self._made:
            return self._made[signature]
        for other, each in list(self._made.items()):
            batch = each.executable.batch
            alike = (other.dtypes, other.structure) == (signature.dtypes, signature.structure)
            if batch is not None and alike and batch.fits(signature.shapes, other.shapes):
                batch.check(signature.shapes)
                return each
        return None

    def _run_empty(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """An empty batch has nothing to compile: the model itself knows the shape of nothing."""
        try:
            with torch.inference_mode(), evaluation_mode(self._model):
                return self._model(*inputs, **named)
        except Exception as error:
            raise InputError(f"{self._name} can't run on empty inputs: {first_line(error)}") from error

    def __reduce__(self) -> Any:
        raise HasteError(
            f"a compiled {self._name} can't be pickled or copied: its machine code belongs to this process; compile "
            "the model again, which takes the code from the cache"
        )

    def __repr__(self) -> str:
        state = described(self.layers) if self._made else "not compiled yet"
        return f"CompiledModule({self._name}, {state}, target={self.target})"
