"""``CompiledModule``: what ``haste_compiler.compile`` returns."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from tvm.target import Target

from haste_compiler.config import HasteConfig
from haste_compiler.cost.explanation import Explanation
from haste_compiler.errors import HasteError, InputError
from haste_compiler.passes.capture import evaluation_mode
from haste_compiler.passes.layers import ConvLayer
from haste_compiler.runtime import steering
from haste_compiler.runtime.executable import Executable
from haste_compiler.runtime.inputs import Signature, known_like, prepare, signature_of
from haste_compiler.runtime.stats import LayerStats


class Specialization:
    """A network compiled for one input signature.

    Attributes:
        executable: the machine code.
        out_spec: structure of what the model returns.
        layers: every convolution of the network, and whether it is a HASTE convolution.
        graphs: the graph as text after each pass, by the pass's name, in order.
        constants: outputs that are no tensors, by their position among the outputs' leaves.
    """

    def __init__(
        self,
        executable: Executable,
        out_spec: TreeSpec,
        layers: list[ConvLayer],
        graphs: dict[str, str],
        constants: dict[int, Any],
    ) -> None:
        self.executable, self.out_spec, self.layers, self.graphs = executable, out_spec, layers, graphs
        self.constants = constants

    def outputs(self, tensors: Sequence[Tensor]) -> Any:
        """What the model returns, from the tensors that the machine code made."""
        leaves: list[Any] = list(tensors)
        for position, value in self.constants.items():
            leaves.insert(position, value)
        return tree_unflatten(leaves, self.out_spec)


Specialize = Callable[[Sequence[Any], HasteConfig], Specialization]
"""Compiles the network for example inputs under a configuration."""


class CompiledModule:
    """A compiled network, called like the model it was made from (in evaluation mode, without gradients).

    It is compiled for each new combination of input shapes at the first call with them. Calls from several threads are
    safe; those with inputs of the same shapes take turns.

    Steering: ``num_hyperplanes``, ``tolerance`` (None: off) and ``flat_tolerance`` can be assigned between two calls,
    one value for all layers or a mapping from layer names or patterns to values; nothing is compiled again. They read
    as one value where all layers agree, as a dictionary by layer where not.

    Attributes:
        config: the configuration it was compiled with.
        target: the target, complete with the CPU's name.
    """

    def __init__(
        self, model: nn.Module, specialize: Specialize, config: HasteConfig, target: Target, threads: int
    ) -> None:
        self.config, self.target = config, target
        self._model, self._specialize, self._threads = model, specialize, threads
        self._name = type(model).__name__
        self._made: dict[Signature, Specialization] = {}
        self._changes: list[steering.Change] = []
        self._lock = threading.Lock()
        self._dense: CompiledModule | None = None

    def __call__(self, *inputs: Any) -> Any:
        """Run the network.

        Args:
            inputs: the model's positional arguments: float32 tensors in any memory layout, or containers of tensors.

        Returns:
            What the model returns: the same structure, new tensors.

        Raises:
            InputError: an input has a dtype, rank or device that the network doesn't take.
            CaptureError: the model can't be captured with inputs of these shapes.
            UnsupportedOperatorError: it has an operator that can't be compiled.
        """
        made, tensors = self._for_inputs(inputs)
        if made is None:
            return self._run_empty(inputs)
        outputs, _ = made.executable.run(tensors)
        return made.outputs(outputs)

    def stats(self, *inputs: Any) -> dict[str, LayerStats]:
        """Run the network and return what each HASTE layer did, by layer name, in order."""
        return self.run_with_stats(*inputs)[1]

    def run_with_stats(self, *inputs: Any) -> tuple[Any, dict[str, LayerStats]]:
        """Run the network once and return what ``compiled(...)`` and ``compiled.stats(...)`` do."""
        made, tensors = self._for_inputs(inputs)
        if made is None:
            return self._run_empty(inputs), {}
        outputs, stats = made.executable.run_with_stats(tensors)
        return made.outputs(outputs), stats

    def profile(self, *inputs: Any) -> dict[str, float]:
        """Run the network and return the seconds spent by layer name; other kernels go under their own name."""
        made, tensors = self._for_inputs(inputs)
        return {} if made is None else made.executable.profile(tensors)

    def prepare(self, *inputs: Any) -> None:
        """Compile for inputs like these now, so that the first call doesn't have to."""
        self._for_inputs(inputs)

    @property
    def dense(self) -> CompiledModule:
        """The same network compiled without HASTE: what its speed is compared with."""
        if not self.config.enabled:
            return self
        if self._dense is None:
            config = HasteConfig(enabled=False)
            self._dense = CompiledModule(self._model, self._specialize_dense, config, self.target, self._threads)
        return self._dense

    def _specialize_dense(self, inputs: Sequence[Any], config: HasteConfig) -> Specialization:
        """Compile without HASTE; where nothing became HASTE that is the code that is there already."""
        leaves, structure = tree_flatten((tuple(inputs), {}))
        made = self._made.get(signature_of(prepare(leaves, None), structure))
        return made if made is not None and not made.executable.groups else self._specialize(inputs, config)

    @property
    def threads(self) -> int:
        """Threads that a call uses. Work was cut for them: compile again to use another number."""
        return self._threads

    @property
    def layers(self) -> list[ConvLayer]:
        """Every convolution, whether it is a HASTE convolution, and why; empty until the network is compiled."""
        return self._last().layers if self._made else []

    @property
    def groupings(self) -> list[tuple[str, ...]]:
        """The HASTE layers by grouping: those that share one are steered together; empty until it is compiled."""
        return [tuple(group.layers) for group in self._last().executable.groups] if self._made else []

    def explain(self) -> Explanation:
        """For every convolution whether it is a HASTE convolution, and why; prints as a table.

        Raises:
            InputError: the network is not compiled yet.
        """
        if not self._made:
            raise InputError(f"{self._name} is not compiled yet: call it, or prepare(), with inputs first")
        return Explanation.of(self.layers)

    @property
    def graphs(self) -> dict[str, str]:
        """The graph as text after capture and after each pass, by name; empty until the network is compiled."""
        return self._last().graphs if self._made else {}

    def _last(self) -> Specialization:
        return list(self._made.values())[-1]

    def _for_inputs(self, inputs: Sequence[Any]) -> tuple[Specialization | None, list[Tensor]]:
        """The code for these inputs, compiled if need be (None for an empty batch), and the tensors to run it on."""
        leaves, structure = tree_flatten((tuple(inputs), {}))
        tensors = prepare(leaves, known_like(list(self._made), structure))
        signature = signature_of(tensors, structure)
        if any(tensor.numel() == 0 for tensor in tensors):
            return None, tensors
        made = self._made.get(signature)
        if made is None:
            with self._lock:
                made = self._made.get(signature)
                if made is None:
                    made = self._specialize(inputs, self.config)
                    self._check(self._changes, [*self._made.values(), made])
                    self._apply(self._changes, made)
                    self._made[signature] = made
        return made, tensors

    def _run_empty(self, inputs: Sequence[Any]) -> Any:
        """An empty batch has nothing to compile: the model itself knows the shape of nothing."""
        try:
            with torch.inference_mode(), evaluation_mode(self._model):
                return self._model(*inputs)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"{self._name} can't run on empty inputs: {reason}") from error

    # Steering

    @property
    def tolerance(self) -> Any:
        """See the class; None where the check is off."""
        return self._steered("tolerance")

    @tolerance.setter
    def tolerance(self, value: Any) -> None:
        self._steer("tolerance", value)

    @property
    def flat_tolerance(self) -> Any:
        """See the class."""
        return self._steered("flat_tolerance")

    @flat_tolerance.setter
    def flat_tolerance(self, value: Any) -> None:
        self._steer("flat_tolerance", value)

    @property
    def num_hyperplanes(self) -> Any:
        """See the class."""
        return self._steered("num_hyperplanes")

    @num_hyperplanes.setter
    def num_hyperplanes(self, value: Any) -> None:
        self._steer("num_hyperplanes", value)

    def _steer(self, field: str, value: Any) -> None:
        made = steering.changes(field, value)
        with self._lock:
            self._check(made, list(self._made.values()))
            self._changes += made
            for specialization in self._made.values():
                self._apply(made, specialization)

    def _check(self, made: Sequence[steering.Change], specializations: Sequence[Specialization]) -> None:
        """Changes must concern some layer for some input signature: which layers are HASTE depends on it."""
        names = (name for each in specializations for group in each.executable.groups for name in group.layers)
        layers = list(dict.fromkeys(names))
        dense = {layer.name: layer.reason for each in specializations for layer in each.layers if not layer.eligible}
        for change in made if specializations else ():
            if change.pattern != "*":
                steering.check(change, layers, dense)

    def _apply(self, made: Sequence[steering.Change], specialization: Specialization) -> None:
        executable = specialization.executable
        for change in made:
            for index, group in enumerate(executable.groups):
                if change.matches(group.layers):
                    executable.steer(index, change.apply(executable.settings(index)))

    def _steered(self, field: str) -> Any:
        if not self._made:
            last = [change.value for change in self._changes if change.field == field and change.pattern == "*"]
            return _plain(last[-1]) if last else getattr(self.config, field)
        executable = self._last().executable
        values = {
            name: _plain(getattr(executable.settings(index), field))
            for index, group in enumerate(executable.groups)
            for name in group.layers
        }
        if not values:
            return getattr(self.config, field)
        return next(iter(values.values())) if len(set(values.values())) == 1 else values

    def __reduce__(self) -> Any:
        raise HasteError(
            f"a compiled {self._name} can't be pickled or copied: its machine code belongs to this process; compile "
            "the model again, which takes the code from the cache"
        )

    def __repr__(self) -> str:
        haste = sum(layer.eligible for layer in self.layers)
        state = f"{haste} of {len(self.layers)} convolutions HASTE" if self._made else "not compiled yet"
        return f"CompiledModule({self._name}, {state}, target={self.target})"


def _plain(value: float) -> float | None:
    """A setting as the user writes it: None for no tolerance, and 0.2 instead of its float32 neighbour."""
    if math.isinf(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.7g}")
