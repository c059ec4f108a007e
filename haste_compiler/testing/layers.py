"""Checking a compiled network layer by layer: each on its own input, against the operators in eager PyTorch."""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from haste_compiler.graph.algorithms import between
from haste_compiler.graph.nodes import is_call, layer_name
from haste_compiler.methods.replay import Layer, deferred_operators, is_layer
from haste_compiler.methods.replayed import OwnedLayer
from haste_compiler.runtime.artifact_load import LoadedModule
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.runtime.recording import KernelCall, Recording
from haste_compiler.testing.elements import describe_difference
from haste_compiler.validation.comparison import difference_of, norm, ratio
from haste_compiler.validation.recorded import recorded_call

ROUNDING = 1e-4
"""Largest difference that rounding may make, as a share of the layer's largest value."""

_TRIES, _NUDGE = 16, 3e-6
"""How often an input is changed within rounding, and by how much, to see what rounding may decide."""


@dataclass(frozen=True)
class LayerCheck:
    """What one layer of a compiled network computed from its own input, beside what it should.

    Attributes:
        name: qualified name.
        kind: "conv", "linear" or "pool"; of a method's layer the method's name; "output" of what the network returns.
        kernels: symbols of its kernels, in order.
        error: largest absolute difference over the layer's largest value, near ties left out.
        near_ties: patches, of a method's layer, that rounding may have decided otherwise than the operators did.
        merging: of a method's layer, what the method changed: relative error of the norm against the plain layer on
            the same input.
        wrong: what is wrong, in words; empty where nothing is.
    """

    name: str
    kind: str
    kernels: tuple[str, ...]
    error: float
    near_ties: int = 0
    merging: float | None = None
    wrong: str = ""

    def __str__(self) -> str:
        made_by = f", kernel {' and '.join(self.kernels)}" if self.kernels else ""
        return f"{self.name} ({self.kind}{made_by}): {self.wrong or 'right'}"


def check_layers(model: nn.Module, compiled: CompiledModule | LoadedModule, inputs: Sequence[Any]) -> list[LayerCheck]:
    """Check every layer of a compiled network that has a kernel of its own, in the order in which they run.

    The network runs once; what each kernel read and wrote is kept. The graph it was compiled from is then run in eager
    PyTorch, node by node, every layer on what the compiled layers before it made: an error doesn't spread to later
    layers, and each faulty layer shows by itself. A method's layer is held against the method's operators with the
    same parameters; where rounding may decide something either way, both are right.

    Args:
        model: the original.
        compiled: what ``compile`` made of it, or ``load`` read, for a target that this machine runs.
        inputs: positional arguments of one call.

    Raises:
        InputError: the inputs are not what the network takes, or are empty.
        CaptureError: the model can't be captured.
    """
    call = recorded_call(model, compiled, inputs)
    checker = _Checker(call.recording)
    with torch.no_grad():
        expected = call.replay(checker.see)
        checker.finish(call.gm, [leaf for leaf in expected if isinstance(leaf, Tensor)])
    return checker.checks


class _Checker:
    """Compares every layer of a recording with the operators."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._seen: dict[str, int] = defaultdict(int)
        self.checks: list[LayerCheck] = []

    def see(self, layer: Layer) -> Tensor:
        """Check a layer, and return what the compiled one made; what it should make where it has no kernel."""
        calls = self._calls(layer)
        stats = self._recording.stats.get(layer.name)
        plain = None if layer.owned is None else layer.plain()
        expected = plain if plain is not None and stats is not None and stats.computed_plainly else layer.compute()
        found = calls[-1].made(expected.shape) if calls else None
        if found is None:
            return expected
        differing, error = compare(expected, found)
        ties = 0
        if layer.owned is not None and expected is not plain and differing.any():
            explained, ties = _near_ties(layer.owned, expected, found)
            differing &= ~explained
            error = compare(expected, torch.where(explained, expected, found))[1]
        wrong = ""
        if differing.any():
            wrong = _wrong_input(layer, calls[0]) or describe_difference(expected, found, differing)
        kernels = tuple(dict.fromkeys(call.symbol for call in calls))
        merging = None if plain is None else _relative(plain, found)
        self.checks.append(LayerCheck(layer.name, layer.kind, kernels, error, ties, merging, wrong))
        return found

    def finish(self, gm: fx.GraphModule, expected: Sequence[Tensor]) -> None:
        """Check what the last layers' results are made into."""
        for index, (mine, theirs) in enumerate(zip(expected, self._recording.outputs, strict=True)):
            differing, error = compare(mine, theirs)
            if differing.any():
                between = _between(gm.graph.output_node())
                wrong = f"{between}: {describe_difference(mine, theirs, differing)}"
                self.checks.append(LayerCheck(f"output[{index}]", "output", (), error, wrong=wrong))

    def _calls(self, layer: Layer) -> list[KernelCall]:
        """The kernels' calls that make up one run of a layer."""
        calls = self._recording.calls.get(layer.name, [])
        if layer.kind != "pool":
            # Names of layers other than pools are unique.
            return calls
        pools = [call for call in calls if call.symbol.startswith("pool")]
        self._seen[layer.name] += 1
        return pools[self._seen[layer.name] - 1 : self._seen[layer.name]]


def compare(expected: Tensor, found: Tensor, limit: float = ROUNDING) -> tuple[Tensor, float]:
    """Which elements differ by more than ``limit`` times the largest value, and the largest difference over it."""
    mine, theirs = expected.double(), found.double()
    same = (mine == theirs) | (mine.isnan() & theirs.isnan())
    difference = torch.where(same, 0.0, (mine - theirs).abs().nan_to_num(math.inf, math.inf))
    scale = float(mine[mine.isfinite()].abs().max()) if bool(mine.isfinite().any()) else 0.0
    largest = float(difference.max()) if difference.numel() else 0.0
    return difference > limit * scale, ratio(largest, scale)


def _relative(expected: Tensor, found: Tensor) -> float:
    difference, reference = difference_of(expected, found)
    return ratio(norm(difference), norm(reference))


def _near_ties(layer: OwnedLayer, expected: Tensor, found: Tensor) -> tuple[Tensor, int]:
    """The patches of a layer that differ because of a near tie: their elements (bool, as the output), how many.

    The operators are run again on inputs that differ within rounding: a patch that rounding decides moves then, too.
    """
    patch = layer.patch
    scale = float(expected.abs().max())
    distance = _by_patch(found - expected, patch)
    moved = torch.zeros_like(distance)
    generator = torch.Generator().manual_seed(0)
    differing = ~(distance <= ROUNDING * scale)
    explained = torch.zeros_like(differing)
    for _ in range(_TRIES):
        nudge = 1 + _NUDGE * torch.randn(layer.x.shape, generator=generator)
        moved = torch.maximum(moved, _by_patch(layer.compute(layer.x * nudge) - expected, patch))
        # NaN is never explained.
        explained = differing & (distance <= 2 * moved + ROUNDING * scale)
        if bool((explained == differing).all()):
            break
    whole = explained
    if patch is not None:
        height, width = expected.shape[2:]
        whole = explained.repeat_interleave(patch[0], 2).repeat_interleave(patch[1], 3)[:, :, :height, :width]
    return whole.expand_as(expected), int(explained.sum())


def _by_patch(difference: Tensor, patch: tuple[int, int] | None) -> Tensor:
    """Largest absolute difference of each patch, (N, 1, PH, PW); of the whole, (1, ..., 1), where there is no patch."""
    if patch is None:
        return difference.abs().amax(tuple(range(difference.dim())), keepdim=True)
    return functional.max_pool2d(difference.abs().amax(1, keepdim=True), patch, patch, ceil_mode=True)


def _wrong_input(layer: Layer, call: KernelCall) -> str:
    """Where a kernel read something else than it should have: what, and which operators should have made it."""
    x = layer.x.permute(0, 2, 3, 1) if layer.x.dim() == 4 else layer.x.reshape(1, 1, -1, layer.x.shape[-1])
    read = [(each, compare(x, each)[0]) for each in call.read(x.shape)]
    if not read or not all(differing.any() for _, differing in read):
        return ""
    return f"it reads something wrong, {_between(layer.node)}: {describe_difference(x, *read[0])}"


def _between(node: fx.Node) -> str:
    """The operators without kernels of their own that lie between the last layers and a node."""

    def is_source(each: fx.Node) -> bool:
        return each.op == "placeholder" or is_layer(each)

    found = between(node, is_source)
    origin = " and ".join(sorted({layer_name(each) for each in found if is_source(each)})) or "constants"
    others = (*deferred_operators(), operator.getitem)
    operators = ", ".join(
        each.name for each in found if each.op == "call_function" and not (is_layer(each) or is_call(each, *others))
    )
    return f"made of {origin} by {operators}" if operators else f"which is the output of {origin}"
