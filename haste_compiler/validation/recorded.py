"""One call of a compiled network, recorded, with the graph that it was made from to run over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from haste_compiler.graph.capture import evaluation_mode
from haste_compiler.methods.observed import Observed
from haste_compiler.methods.replay import Layer, Replay
from haste_compiler.runtime.artifact_load import LoadedModule
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.runtime.executable import Executable
from haste_compiler.runtime.recording import Recording, record
from haste_compiler.runtime.rewritten import part_for, rewritten, steered_values
from haste_compiler.validation.running import fresh_copy


@dataclass(frozen=True)
class RecordedCall:
    """A call, and what it was computed from.

    Attributes:
        executable: the code that ran.
        tensors: that it was given.
        recording: what its kernels read and wrote.
        gm: the rewritten graph.
    """

    executable: Executable
    tensors: Sequence[Tensor]
    recording: Recording
    gm: fx.GraphModule

    def replay(
        self, see: Callable[[Layer], Tensor], watch: Callable[[Observed], None] = lambda observed: None
    ) -> list[Any]:
        """Run the graph in eager PyTorch, with the parameters as they are steered; see ``Replay``."""
        return Replay(self.gm, see, steered_values(self.executable), watch).flat(fresh_copy(tuple(self.tensors)))


def recorded_call(model: nn.Module, compiled: CompiledModule | LoadedModule, inputs: Sequence[Any]) -> RecordedCall:
    """Run a compiled network once, and make its graph again.

    Args:
        model: the original.
        compiled: what was made of it, for a target that this machine runs.
        inputs: positional arguments of one call.

    Raises:
        InputError: the inputs are not what the network takes, or are empty.
        CaptureError: the model can't be captured.
    """
    executable, tensors, owned = part_for(compiled, inputs)
    with torch.no_grad(), evaluation_mode(model):
        recording = record(executable, tensors)
        return RecordedCall(executable, tensors, recording, rewritten(model, inputs, compiled.configs, owned))
