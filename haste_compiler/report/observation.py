"""A call of a compiled network that is looked at afterwards: every layer on what it really read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from haste_compiler.graph.nodes import layer_name
from haste_compiler.methods.layers import OWNER
from haste_compiler.methods.merged_channels import MergedChannels
from haste_compiler.methods.observed import Observed
from haste_compiler.methods.registry import method
from haste_compiler.methods.replay import Layer
from haste_compiler.methods.statistics import LayerStatistics
from haste_compiler.methods.work_map import WorkMap
from haste_compiler.report.work_map import work_maps
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.runtime.executable import Executable
from haste_compiler.runtime.recording import Recording
from haste_compiler.validation.comparison import difference_of, norm, ratio
from haste_compiler.validation.recorded import recorded_call
from haste_compiler.validation.timing import PROFILE_CALLS


@dataclass(frozen=True)
class Change:
    """What a method changed of its layer's output, against the plain layer on the same input.

    Attributes:
        error: 2-norm of the difference, of the image where it is largest.
        relative: of the whole batch, over the 2-norm of the plain output.
    """

    error: float
    relative: float


@dataclass
class Observation:
    """What was seen of a call.

    Attributes:
        gm: the graph that the network was compiled from.
        stats: what the kernels counted, by layer.
        seconds: by layer and kernel's symbol, in one call.
        maps: by layer, where work was done.
        merged: by layer, the channels that became one in a patch.
        changes: by layer.
    """

    gm: fx.GraphModule
    stats: dict[str, LayerStatistics]
    seconds: dict[tuple[str, str], float]
    maps: dict[str, WorkMap]
    merged: dict[str, MergedChannels] = field(default_factory=dict)
    changes: dict[str, Change] = field(default_factory=dict)


def observe(model: nn.Module, compiled: CompiledModule, inputs: Sequence[Any], image: int = 0) -> Observation:
    """Run a compiled network once, and its graph in eager PyTorch on what its kernels made.

    Every layer gets what the compiled layers before it made. Where the kernels don't count what is asked for, the
    method's definition in plain PyTorch says it, of the layer's real input.

    Args:
        model: the original.
        compiled: what ``compile`` made of it, for a machine like this.
        inputs: positional arguments of one call.
        image: of the batch.

    Raises:
        InputError: the inputs are not what the network takes, or are empty.
        CaptureError: the model can't be captured.
    """
    call = recorded_call(model, compiled, inputs)
    shape = next((tensor.shape for tensor in call.tensors if tensor.dim() == 4), torch.Size())
    stats = call.recording.stats
    seconds = kernel_seconds(call.executable, call.tensors)
    found = Observation(call.gm, stats, seconds, work_maps(stats, shape, image))
    seer = _Seer(call.recording, found, image)
    call.replay(seer.see, seer.watch)
    return found


def kernel_seconds(executable: Executable, tensors: Sequence[Tensor]) -> dict[tuple[str, str], float]:
    """Seconds by layer and kernel's symbol in one call, the least of a few."""
    calls = [executable.profile_kernels(tensors) for _ in range(PROFILE_CALLS)]
    return {key: min(call[key] for call in calls) for key in calls[0]}


class _Seer:
    """Looks at every layer while the graph is run."""

    def __init__(self, recording: Recording, found: Observation, image: int) -> None:
        self._recording, self._found, self._image = recording, found, image

    def watch(self, observed: Observed) -> None:
        """Ask the method of a node what only its definition knows."""
        name, owner = layer_name(observed.node), method(observed.node.meta[OWNER])
        observed = replace(observed, image=self._image)
        if name not in self._found.maps:
            work = owner.reference_work_map(observed)
            if work is not None:
                self._found.maps[name] = work
        stats = self._recording.stats.get(name)
        merged = None if stats is None or stats.computed_plainly else owner.merged_channels(observed)
        if merged is not None:
            self._found.merged[name] = merged

    def see(self, layer: Layer) -> Tensor:
        """What the compiled layer made, held against the plain one; what it should make where it has no kernel."""
        found = self._made(layer)
        if layer.owned is None:
            return layer.compute() if found is None else found
        found = layer.compute() if found is None else found
        plain = layer.plain()
        images = [norm(difference_of(*pair)[0]) for pair in zip(plain, found, strict=True)]
        difference, reference = difference_of(plain, found)
        relative = ratio(norm(difference), norm(reference))
        self._found.changes[layer.name] = Change(max(images, default=0.0), relative)
        return found

    def _made(self, layer: Layer) -> Tensor | None:
        """The result of the last kernel of a layer; None: it has none of its own."""
        calls = self._recording.calls.get(layer.name, [])
        # Names of layers other than pools are unique.
        if not calls or layer.kind == "pool":
            return None
        value: Tensor = layer.node.meta["val"]
        return calls[-1].made(value.shape) if calls[-1].result.dtype == value.dtype else None
