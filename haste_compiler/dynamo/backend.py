"""``torch.compile(model, backend="haste")``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dynamo.exc import RestartAnalysis
from torch._inductor.compile_fx import compile_fx

from haste_compiler.dynamo import op
from haste_compiler.dynamo.compiled import CompiledGraph, Function, call_directly
from haste_compiler.dynamo.machines import machines
from haste_compiler.dynamo.partition import Plan, find_regions
from haste_compiler.dynamo.region import Region
from haste_compiler.dynamo.split import Cut, cut, replace_regions
from haste_compiler.dynamo.trace import lift_constants, trace
from haste_compiler.errors import CaptureError, ConfigError
from haste_compiler.graph.nodes import copy_module
from haste_compiler.methods.configs import Configs
from haste_compiler.methods.registry import check_precision, methods

log = logging.getLogger(__name__)

_LEAST_MACS = 20_000_000
"""Multiply-adds that a region has at least: fewer take less time than what is around the call."""


def haste(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """Compile a graph for ``torch.compile``: convolutions and what is around them as our code, the rest as Inductor's.

    Args:
        gm: TorchDynamo's graph.
        example_inputs: its arguments, parameters and buffers among them.
        options: fields of a method's configuration, the first that has them all; or ``{"config": ...}``, what
            ``compile`` takes. ``"precision"`` beside either, or alone: what ``compile`` takes for a CPU.
        mode: of Inductor, such as "max-autotune", for its part.

    Raises:
        ConfigError: a field is unknown or out of range, or the mode is unknown.
    """
    configs = _configs(options or {})
    patches = _mode_options(mode)

    def inductor(graph: fx.GraphModule, inputs: Sequence[Any]) -> Function:
        return compile_fx(copy_module(graph), list(inputs), config_patches=dict(patches))  # type: ignore[return-value]

    reason = _must_stay(gm, example_inputs)
    if reason is None:
        try:
            return _compile(gm, example_inputs, configs, inductor)
        except RestartAnalysis:
            # Inductor asks TorchDynamo to trace once more, such as with a number as an input.
            raise
        except CaptureError as error:
            reason = str(error)
        except Exception as error:
            # Whatever our tracing trips over, the model still runs.
            log.warning("a graph goes to Inductor as it is, for a defect of haste_compiler: %r", error)
            log.debug("", exc_info=True)
            reason = type(error).__name__
    log.info("left to Inductor as it is: %s", reason)
    return inductor(gm, example_inputs)


def _configs(options: Mapping[str, Any]) -> Configs:
    fields = {name: value for name, value in options.items() if name not in ("config", "precision")}
    given = options.get("config")
    if "config" in options and fields:
        raise ConfigError(f"options have config, which says all, and also {', '.join(fields)}")
    if "config" not in options and (fields or "precision" not in options):
        able = [each.CONFIG for each in methods() if set(fields).issubset(each.CONFIG.fields())]
        given = (able or [methods()[0].CONFIG])[0].from_dict(fields)
    precision = options.get("precision")
    machine = machines()[0]
    check_precision(machine, precision)
    configs = Configs.with_precision(given, precision, machine)[0]
    configs.check(machine)
    return configs


def _mode_options(mode: str | None) -> Mapping[str, Any]:
    if mode is None:
        return {}
    try:
        return torch._inductor.list_mode_options(mode)
    except RuntimeError as error:
        raise ConfigError(str(error)) from None


def _must_stay(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> str | None:
    """Why a graph is none of ours; None if it may be."""
    tensors = [value for value in (*example_inputs, *gm.parameters(), *gm.buffers()) if isinstance(value, Tensor)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        log.warning(
            'backend="haste" computes no gradients, and this graph may need them: all of it goes to Inductor. '
            "Call the model under torch.no_grad() or torch.inference_mode()"
        )
        return "it may need gradients"
    if any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
        return "autocast is on"
    if any(type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) for tensor in tensors):
        return "a tensor is fake, or of a class of its own"
    return None


def _compile(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    configs: Configs,
    inductor: Callable[[fx.GraphModule, Sequence[Any]], Function],
) -> Function:
    lifted, own = lift_constants(gm)
    traced = trace(lifted)
    placeholders = traced.graph.find_nodes(op="placeholder")
    originals = lifted.graph.find_nodes(op="placeholder")
    fixed = [
        node
        for node, original, value in zip(placeholders, originals, [*example_inputs, *own.values()], strict=True)
        if _is_fixed(original, value)
    ]
    measured = all(config.cost_model for config in configs.all)
    plan = find_regions(traced, fixed, _LEAST_MACS if measured else 0, machines())
    if not plan.regions:
        raise CaptureError("no convolution in it is worth it")
    cuts = [cut(plan, region) for region in plan.regions]
    threads = torch.get_num_threads()
    regions = [
        Region(part.gm, (len(part.tensors), len(part.weights), len(part.sizes)), configs, threads) for part in cuts
    ]
    handles = [op.register(region) for region in regions]
    _log_plan(traced, plan)
    if plan.whole and _is_direct(traced, cuts[0]):
        ours = call_directly(traced, cuts[0], regions[0], list(own.values()))
    else:
        split = replace_regions(traced, plan, cuts, handles)
        _lower_constants(split, gm, len(example_inputs), list(own))
        ours = _partly(split, example_inputs, inductor, regions)
    positions = [i for i, node in enumerate(placeholders) if isinstance(node.meta["val"], torch.SymInt)]
    # Without the cost model nothing is measured, and Inductor's code would hardly ever run.
    other = inductor(gm, example_inputs) if measured else gm.forward
    compiled = CompiledGraph(ours, other, positions, _batch_position(placeholders, regions), measured)
    numbers = [int(value.node.hint) if isinstance(value, torch.SymInt) else value for value in example_inputs]
    chosen = compiled.choose(tuple(numbers[position] for position in positions), numbers)
    # Without sizes that vary there is nothing more to choose, and the other one's memory can go.
    return compiled if positions else chosen


def _is_fixed(placeholder: fx.Node, value: Any) -> bool:
    """Whether an argument is a parameter or a buffer, of which changes can be noticed."""
    if not isinstance(value, Tensor) or value.is_inference():
        return False
    kept = (placeholder.meta.get("tensor_dict") or {}).get("_dynamo_static_input_type")
    return isinstance(value, nn.Parameter) or kept is not None or "tensor_dict" not in placeholder.meta


def _is_direct(gm: fx.GraphModule, part: Cut) -> bool:
    """Whether a region that makes all calls takes nothing but a graph's arguments, and makes all of its outputs."""
    leaves: Any = gm.graph.output_node().args[0]
    outputs = set(part.outputs)
    return all(node.op == "placeholder" for node in part.sizes) and all(leaf in outputs for leaf in leaves)


def _lower_constants(split: fx.GraphModule, gm: fx.GraphModule, count: int, names: Sequence[str]) -> None:
    """Make the placeholders after the first ``count`` the graph's own tensors again."""
    for node, name in zip(split.graph.find_nodes(op="placeholder")[count:], names, strict=True):
        owner, _, last = name.rpartition(".")
        attribute = name.replace(".", "_")
        setattr(split, attribute, getattr(gm.get_submodule(owner), last))
        with split.graph.inserting_after(node):
            read = split.graph.get_attr(attribute)
        node.replace_all_uses_with(read)
        split.graph.erase_node(node)
    split.graph.eliminate_dead_code()


def _partly(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    inductor: Callable[[fx.GraphModule, Sequence[Any]], Function],
    regions: Sequence[Region],
) -> Function:
    """A graph that calls regions, through Inductor."""
    used = []
    for position, node in enumerate(gm.graph.find_nodes(op="placeholder")):
        if node.users:
            used.append(position)
        else:
            gm.graph.erase_node(node)
    gm.recompile()
    function = inductor(gm, [example_inputs[position] for position in used])
    # The operator knows regions by their names, as long as somebody holds them.
    keep = list(regions)

    def run(*args: Any) -> Sequence[Any]:
        assert keep
        return function(*[args[position] for position in used])

    return run


def _batch_position(placeholders: Sequence[fx.Node], regions: Sequence[Region]) -> int | None:
    """Position of the argument that is the batch in all regions, if they can split it."""
    symbols = {region.batch.symbol if region.batch is not None else None for region in regions}
    if len(symbols) != 1 or (symbol := symbols.pop()) is None:
        return None
    for position, node in enumerate(placeholders):
        value = node.meta["val"]
        if isinstance(value, torch.SymInt) and value.node.expr == symbol:
            return position
    return None


def _log_plan(gm: fx.GraphModule, plan: Plan) -> None:
    calls = sum(node.op == "call_function" and node not in plan.constants for node in gm.graph.nodes)
    taken = [len(region) for region in plan.regions]
    log.info("%d of %d calls are ours, in %d regions: %s", sum(taken), calls, len(taken), taken)
    for region in plan.regions:
        log.debug("region:\n%s", "\n".join(node.format_node() or "" for node in region))
