"""``assert_equivalent``: whether what a model was compiled to computes the same, and if not, where they part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from haste_compiler.errors import HasteError, InputError, ValidationError
from haste_compiler.graph.capture import evaluation_mode
from haste_compiler.methods.registry import method, names
from haste_compiler.runtime.artifact_load import LoadedModule
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.runtime.rewritten import owned_layers
from haste_compiler.testing.elements import describe_difference
from haste_compiler.testing.layers import LayerCheck, check_layers, compare
from haste_compiler.testing.passes import BrokenPass, find_broken_pass
from haste_compiler.testing.submodules import first_submodule
from haste_compiler.validation.batches import Batch, Labels, read_batches
from haste_compiler.validation.comparison import OutputTally
from haste_compiler.validation.report import OutputComparison, ValidationReport
from haste_compiler.validation.running import Outputs, run
from haste_compiler.validation.thresholds import Limits, Thresholds
from haste_compiler.validation.validate import validate

MAX_REL_ERROR = 1e-4
"""Of another compiler's network, where no limit is given: what float32 rounding may do."""

_NAMED = 5
"""As many layers are named."""


class EquivalenceError(ValidationError):
    """A compiled network differs from its model by more than was allowed, or computes a layer wrongly.

    Attributes:
        layer: the first layer that doesn't compute what it should; None where that isn't known, or none is at fault.
        layers: what was found of each layer; empty where the network is another compiler's.
        broken_pass: the pass that broke the graph, if one did.
        report: of the validation; None where it didn't come to one.
    """

    def __init__(
        self,
        message: str,
        layer: str | None = None,
        layers: Sequence[LayerCheck] = (),
        broken_pass: BrokenPass | None = None,
        report: ValidationReport | None = None,
    ) -> None:
        super().__init__(message)
        self.layer, self.layers, self.broken_pass, self.report = layer, tuple(layers), broken_pass, report


def assert_equivalent(
    model: nn.Module,
    compiled: Callable[..., Any],
    inputs: Any,
    *,
    labels: Labels = None,
    check: bool = True,
    **limits: Unpack[Limits],
) -> ValidationReport | tuple[OutputComparison, ...]:
    """Assert that what a model was compiled to computes what the model does; otherwise say where they part.

    Of a network that this package compiled (``compile``, ``load``), every layer is held against the operators in eager
    PyTorch on the layer's own input, and every pass over the graph is run as if no method did anything: a layer
    whose code, weights or graph are wrong is named. The limits say how much the methods may change the outputs.

    Of anything else that is called like the model (a ``torch.compile``d module, an ONNX Runtime session, another
    ``nn.Module``) only outputs are known, and they may differ by ``MAX_REL_ERROR`` where no limit is given. A plain
    ``nn.Module`` is also run beside the model to find the first submodule of the same name whose outputs part.

    Args:
        model: the original.
        compiled: what is to compute the same. An ``onnxruntime.InferenceSession`` is taken as it is.
        inputs: a tensor, a tuple of arguments, or an iterable of such batches, as ``validate`` takes them. Layers are
            checked on the first batch.
        labels: as ``validate`` takes them.
        check: of this package's networks, check every layer and pass, also where the limits hold.
        limits: ``max_rel_error``, most that the relative error of the worst batch may be; ``min_agreement``, least part
            of the images whose top-1 class is the same; of this package's networks ``min_mac_reduction``, least net
            part of the multiply-adds that is saved; of networks that ``compile`` made ``min_speedup``, least speedup
            over the dense compile.

    Returns:
        The validation's report; of another compiler's network the comparison of each output.

    Raises:
        EquivalenceError: they differ; the message names the first layer where they part, or says which elements differ.
        InputError: inputs or limits are unusable.
    """
    __tracebackhide__ = True
    thresholds = Thresholds(**limits)
    try:
        return _compared(model, compiled, inputs, labels, thresholds, check)
    except HasteError as error:
        # The message says it all: the way there is through PyTorch's code and ours.
        raise error.with_traceback(None) from None


def _compared(
    model: nn.Module, compiled: Any, inputs: Any, labels: Labels, thresholds: Thresholds, check: bool
) -> ValidationReport | tuple[OutputComparison, ...]:
    if isinstance(compiled, CompiledModule | LoadedModule):
        return _own(model, compiled, inputs, labels, thresholds, check)
    if thresholds.min_mac_reduction is not None or thresholds.min_speedup is not None:
        raise InputError(
            f"min_mac_reduction and min_speedup are for networks of this package, not {type(compiled).__name__}"
        )
    return _foreign(model, compiled, inputs, labels, thresholds)


def _own(
    model: nn.Module,
    compiled: CompiledModule | LoadedModule,
    inputs: Any,
    labels: Labels,
    limits: Thresholds,
    check: bool,
) -> ValidationReport:
    given: list[Any] = []
    missed, report = "", None
    try:
        report = validate(
            model,
            compiled,
            _remembering(inputs, given),
            labels=labels,
            time=limits.min_speedup is not None,
            **vars(limits),
        )
    except ValidationError as error:
        missed, report = str(error), getattr(error, "report", None)
    if not (missed or check):
        assert report is not None
        return report
    batch = next(read_batches([given[0]], True if labels is True else None))
    checks = check_layers(model, compiled, batch.inputs)
    wrong = [layer for layer in checks if layer.wrong]
    broken = find_broken_pass(model, batch.inputs, compiled.configs, owned_layers(compiled, batch.inputs))
    if not (missed or wrong or broken):
        assert report is not None
        return report
    name = type(model).__name__
    lines = [f"the compiled {name} differs from the model" + (f": {missed}" if missed else "")]
    layer = None
    if broken:
        lines.append(f"the graph was broken before any code was made: {broken}")
        layer = broken.layer or None
    if wrong:
        layer = layer or wrong[0].name
        lines.append(f"first layer whose code computes something else than the operator on the same input: {wrong[0]}")
        lines += [f"  also: {each}" for each in wrong[1:_NAMED]]
        lines += [f"  and {len(wrong) - _NAMED} others"] if len(wrong) > _NAMED else []
        lines.append(f"  the other {len(checks) - len(wrong)} of {len(checks)} layers are right, each on its own input")
    if not (broken or wrong):
        lines += _changes(checks)
    raise EquivalenceError("\n".join(lines), layer, checks, broken, report)


def _changes(checks: Sequence[LayerCheck]) -> list[str]:
    """Where no layer is at fault: how much the methods changed in each, the most first."""
    changed = sorted((each for each in checks if each.merging), key=lambda each: -(each.merging or 0))
    lines = [f"all {len(checks)} layers compute what their settings say"]
    if changed:
        found = [method(name) for name in names() if any(each.kind == name for each in changed)]
        lines[0] += f"; {' and '.join(each.TITLE for each in found)} changed, on each layer's own input:"
        lines += [f"  {each.name}: {100 * (each.merging or 0):.1f} %" for each in changed[:_NAMED]]
        lines += [f"  {each.NEARER} in these layers bring the outputs nearer" for each in found if each.NEARER]
    return lines


def _foreign(
    model: nn.Module, compiled: Callable[..., Any], inputs: Any, labels: Labels, limits: Thresholds
) -> tuple[OutputComparison, ...]:
    name = type(compiled).__name__ if not hasattr(compiled, "__name__") else compiled.__name__
    call = _callable(compiled)
    limit = MAX_REL_ERROR if limits.max_rel_error is None and limits.min_agreement is None else limits.max_rel_error
    tally = OutputTally()
    worst: tuple[float, Batch, Outputs, Outputs] | None = None
    with evaluation_mode(model):
        for batch in read_batches(inputs, labels):
            expected = run(model, batch.inputs)
            found = _in_structure_of(expected, run(call, batch.inputs), name)
            one = OutputTally()
            for each in (tally, one):
                each.add(expected, found, batch.labels)
            error = max((output.worst_rel_error for output in one.comparisons()), default=0.0)
            if worst is None or error > worst[0]:
                worst = error, batch, expected, found
    compared = tally.comparisons()
    assert worst is not None
    agreements = [output.agreement for output in compared if output.agreement is not None]
    verdicts = Thresholds(limit, limits.min_agreement).verdicts(
        max_rel_error=worst[0], agreement=min(agreements, default=None)
    )
    missed = "; ".join(verdict.missed for verdict in verdicts if verdict.missed)
    if not missed:
        return compared
    lines = [f"{name} differs from {type(model).__name__}: {missed}"]
    for leaf, mine, theirs in zip(worst[2].names, worst[2].copies, worst[3].copies, strict=True):
        if isinstance(mine, Tensor) and (differing := compare(mine, theirs)[0]).any():
            lines.append(f"  {leaf}, in the worst batch: {describe_difference(mine, theirs, differing)}")
    parted = _parted(model, compiled, worst[1])
    if parted:
        lines.append(f"first submodule whose outputs part: {parted[0]}: {parted[1]}")
    else:
        lines.append("its graph isn't known here: which layer it is can't be said")
    raise EquivalenceError("\n".join(lines), parted[0] if parted else None)


def _parted(model: nn.Module, compiled: Any, batch: Batch) -> tuple[str, str] | None:
    # Hooks would make a torch.compile'd module run something else than what was compiled.
    if not isinstance(compiled, nn.Module) or isinstance(compiled, torch._dynamo.OptimizedModule):
        return None
    return first_submodule(model, compiled, batch.inputs)


def _callable(compiled: Any) -> Callable[..., Any]:
    """What is called with tensors; an ONNX Runtime session is given arrays by name."""
    if callable(compiled):
        return compiled
    if hasattr(compiled, "get_inputs") and hasattr(compiled, "run"):
        names = [each.name for each in compiled.get_inputs()]

        def call(*inputs: Any) -> Any:
            arrays = (leaf.numpy() for leaf in tree_leaves(inputs))
            return compiled.run(None, dict(zip(names, arrays, strict=True)))

        return call
    raise InputError(f"compiled is {type(compiled).__name__}: allowed are a callable and an ONNX Runtime session")


def _in_structure_of(expected: Outputs, found: Outputs, name: str) -> Outputs:
    """Another compiler's outputs as tensors, in the structure that the model returns: many return a flat list."""
    leaves = tree_leaves([_tensor(leaf) for leaf in found.copies])
    if len(leaves) != len(expected.copies):
        raise EquivalenceError(f"{name} returns {found.described}, the model {expected.described}")
    return expected._replace(leaves=leaves, copies=leaves, described=found.described)


def _tensor(leaf: Any) -> Any:
    return torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf


def _remembering(inputs: Any, given: list[Any]) -> Any:
    """The same inputs; the first batch that is read from them is kept."""
    if isinstance(inputs, Tensor | tuple | str | bytes | dict) or not isinstance(inputs, Iterable):
        given.append(inputs)
        return inputs
    return (given.append(item) or item if not given else item for item in inputs)  # type: ignore[func-returns-value]
