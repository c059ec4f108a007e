"""A part of a graph that runs as our own code: compiled for each shape that it meets, with the weights it is given."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._prims_common import suggest_memory_format

from haste_compiler.dynamo.batch import batch_symbol, pieces
from haste_compiler.dynamo.machines import machine_for
from haste_compiler.dynamo.specialize import specialize
from haste_compiler.errors import HasteError
from haste_compiler.forking import Lock
from haste_compiler.interrupts import deferred_interrupts
from haste_compiler.methods.configs import Configs
from haste_compiler.runtime.executable import Executable
from haste_compiler.runtime.inputs import prepare
from haste_compiler.runtime.torch_threads import with_torch

log = logging.getLogger(__name__)

Shapes = tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]
"""Shapes of the tensors, and the sizes."""

_MOST_PROGRAMS = 32
"""Programs that are kept for one set of weights; those that were were made first are dropped."""


@dataclass
class _Bound:
    """What was compiled for one set of weights.

    Attributes:
        state: address and version of each weight: other ones, and the packed weights are out of date.
        weights: an identity means nothing once its owner is gone.
        programs: by shapes, in the order in which they were made; None where compiling failed.
    """

    state: tuple[Any, ...]
    weights: list[weakref.ref[Tensor]]
    programs: dict[Shapes, Executable | None] = field(default_factory=dict)


class Region:
    """A region that can be called from any thread.

    Args:
        gm: its graph, as ``split.cut`` returns it, sizes symbolic.
        counts: of its placeholders, how many are tensors, weights and sizes.
        configs: of the methods.
        threads: threads that its tasks are cut for.

    Attributes:
        gm: its graph.
        device: where its tensors are, and its code runs.
        batch: the batch, if it can be computed in pieces.
    """

    def __init__(self, gm: fx.GraphModule, counts: tuple[int, int, int], configs: Configs, threads: int) -> None:
        self.gm, self._counts, self._configs = gm, counts, configs
        self.device = next(iter(gm.graph.find_nodes(op="placeholder"))).meta["val"].device
        self._machine = machine_for(self.device, threads)
        self._lock = Lock(brief=False)
        self._bound: dict[tuple[int, ...], _Bound] = {}
        self.batch = batch_symbol(gm, counts)
        self._channels_last = {
            index
            for index, node in enumerate(gm.graph.output_node().args[0])  # type: ignore[arg-type]
            if _is_channels_last(node.meta["val"])
        }
        self._first_batch: int | None = None

    def __call__(self, tensors: Sequence[Tensor], weights: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Compute the region's outputs; see ``fake`` for their layout."""
        outputs = self._outputs(tensors, weights, sizes)
        if not self._channels_last:
            return outputs
        return [
            output.contiguous(memory_format=torch.channels_last) if index in self._channels_last else output
            for index, output in enumerate(outputs)
        ]

    def _outputs(self, tensors: Sequence[Tensor], weights: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        bound = self._for_weights(weights)
        if self.batch is None or not len(tensors[0]):
            return self._run(bound, tensors, weights, sizes)
        batch = len(tensors[0])
        self._first_batch = self._first_batch or batch
        parts = pieces(batch, self._first_batch)
        if len(parts) == 1:
            return self._run(bound, tensors, weights, sizes)
        results = []
        start = 0
        for count in parts:
            some = [tensor[start : start + count] for tensor in tensors]
            results.append(self._run(bound, some, weights, self.batch.sizes(sizes, count)))
            start += count
        return [torch.cat(outputs) for outputs in zip(*results, strict=True)]

    def fake(self, tensors: Sequence[Tensor], weights: Sequence[Tensor], sizes: Sequence[Any]) -> list[Tensor]:
        """The outputs' shapes, for fake tensors: contiguous, but for those that PyTorch computes as channels_last."""
        outputs = [output.new_empty(output.shape) for output in self.gm(*tensors, *weights, *sizes)]
        for index in self._channels_last:
            outputs[index] = outputs[index].contiguous(memory_format=torch.channels_last)
        return outputs

    def _run(
        self, bound: _Bound, tensors: Sequence[Tensor], weights: Sequence[Tensor], sizes: Sequence[int]
    ) -> list[Tensor]:
        shapes = (tuple(tuple(tensor.shape) for tensor in tensors), tuple(sizes))
        program = bound.programs.get(shapes)
        if program is None:
            program = self._compile(bound, shapes, tensors, weights)
        if program is None:
            outputs = self.gm(*tensors, *weights, *sizes)
            # An operator's outputs share no memory with its inputs.
            return [output.clone(memory_format=torch.contiguous_format) for output in outputs]
        outputs, _ = program.run(prepare(tensors, None, self._machine.torch_devices))
        return outputs

    def _compile(
        self, bound: _Bound, shapes: Shapes, tensors: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> Executable | None:
        with self._lock.lock:
            if shapes in bound.programs:
                return bound.programs[shapes]
            try:
                if any(tensor.numel() == 0 for tensor in tensors):
                    raise HasteError("an input is empty")
                with deferred_interrupts():
                    made = with_torch(
                        lambda: specialize(self.gm, tensors, weights, shapes[1], self._machine, self._configs)
                    )
            except Exception as error:
                # A region must compute its outputs, whatever our compiler trips over.
                log.warning("a region runs in eager mode at %s: %s", shapes[0], error)
                made = None
            while len(bound.programs) >= _MOST_PROGRAMS:
                bound.programs.pop(next(iter(bound.programs)))
            bound.programs[shapes] = made
            return made

    def _for_weights(self, weights: Sequence[Tensor]) -> _Bound:
        """What was compiled for these weights; nothing if one of them has changed since."""
        key = tuple(map(id, weights))
        state = _state(weights)
        bound = self._bound.get(key)
        if bound is not None and bound.state == state:
            return bound
        with self._lock.lock:
            bound = self._bound.get(key)
            if bound is None or bound.state != state:
                forget = functools.partial(_forget, weakref.ref(self), key)
                bound = self._bound[key] = _Bound(state, [weakref.ref(weight, forget) for weight in weights])
            return bound


def _is_channels_last(value: Tensor) -> bool:
    return value.dim() == 4 and suggest_memory_format(value) == torch.channels_last


def _state(weights: Sequence[Tensor]) -> tuple[Any, ...]:
    try:
        return tuple([(weight.data_ptr(), weight._version) for weight in weights])
    except RuntimeError:
        # Inductor's own constants, where it freezes weights, have no version and stay as they are.
        return tuple([(weight.data_ptr(), None if weight.is_inference() else weight._version) for weight in weights])


def _forget(region: weakref.ref[Region], key: tuple[int, ...], weight: object) -> None:
    if (alive := region()) is not None:
        alive._bound.pop(key, None)
