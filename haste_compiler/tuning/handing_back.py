"""Which layers PyTorch computes faster than the code that was made for them, on this machine and these inputs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from haste_compiler.codegen.program import layers_of
from haste_compiler.graph.nodes import layer_name
from haste_compiler.interrupts import check_interrupt
from haste_compiler.passes.hand_back import can_be_handed_back
from haste_compiler.runtime.executable import Executable

_CLEARLY = 1.2
"""How many times PyTorch's time a layer must take: two measurements of the same differ by less."""

_SHARE = 0.02
"""Of a call's time that must be saved, for each layer."""

_CALL_SECONDS = 1e-4
"""What a call of PyTorch from compiled code takes by itself, about."""

_ROUNDS = 5
_MOST_SECONDS = 10.0
"""After which there are two rounds, of which the first warms up."""


def slower_layers(executable: Executable, gm: fx.GraphModule, inputs: Sequence[Any], threads: int) -> list[str]:
    """Time every layer of a network as it was compiled and as PyTorch runs it, in turns.

    Args:
        executable: the network.
        gm: the graph that it was lowered from.
        inputs: of the graph, flat.
        threads: that PyTorch uses.

    Returns:
        The names of the layers that are clearly slower than PyTorch's own operators, by enough to be worth a call; none
        of those that share a kernel.
    """
    tensors = [_channels_last(each) for each in inputs]
    given = [each.detach().contiguous() for each in inputs if isinstance(each, Tensor)]
    ours: dict[str, float] = {}
    theirs: dict[str, float] = {}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        end = time.monotonic() + _MOST_SECONDS
        for number in range(_ROUNDS):
            if number < 2 or time.monotonic() < end:
                check_interrupt()
                _keep_best(ours, executable.profile(given))
                _keep_best(theirs, _eager_seconds(gm, tensors))
    finally:
        torch.set_num_threads(before)
    total = sum(ours.values())
    kernels = [layers_of(layer) for _, layer in executable.kernels]
    shared = {layer for layers in kernels if len(layers) > 1 for layer in layers}
    return [
        layer
        for layer, seconds in theirs.items()
        if layer in ours
        and layer not in shared
        and ours[layer] > _CLEARLY * (seconds + _CALL_SECONDS)
        and ours[layer] - seconds - _CALL_SECONDS > _SHARE * total
    ]


def _channels_last(value: Any) -> Any:
    images = isinstance(value, Tensor) and value.dim() == 4
    return value.contiguous(memory_format=torch.channels_last) if images else value


def _keep_best(best: dict[str, float], seconds: dict[str, float]) -> None:
    for layer, each in seconds.items():
        best[layer] = min(each, best.get(layer, each))


def _eager_seconds(gm: fx.GraphModule, inputs: Sequence[Any]) -> dict[str, float]:
    """Seconds of the layers that can be handed back, all of whose calls can be."""
    timed = _Timed(gm)
    with torch.no_grad():
        timed.run(*inputs, enable_io_processing=False)
    return {layer: seconds for layer, seconds in timed.seconds.items() if layer not in timed.others}


class _Timed(fx.Interpreter):
    """Runs a graph by PyTorch, and adds up the seconds of every layer's calls."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.seconds: dict[str, float] = defaultdict(float)
        self.others: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        start = time.perf_counter()
        value = super().run_node(n)
        if n.op == "call_function":
            self.seconds[layer_name(n)] += time.perf_counter() - start
            if not can_be_handed_back(n):
                self.others.add(layer_name(n))
        return value
