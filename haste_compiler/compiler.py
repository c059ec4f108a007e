"""``compile``: the whole pipeline. Each of its five steps names the room where it lives."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only, tree_structure

from haste_compiler.codegen.build import build, cache_key
from haste_compiler.codegen.machine import Machine
from haste_compiler.codegen.program import Lowered
from haste_compiler.codegen.stream_plan import StreamPlan
from haste_compiler.codegen.stream_walk import lower_stream
from haste_compiler.codegen.target import TargetLike, machine_of, parse_target
from haste_compiler.codegen.walk import lower
from haste_compiler.cost.pricing import Pricing
from haste_compiler.errors import CaptureError, ConfigError, TargetError
from haste_compiler.graph.arguments import Model, as_module, check_arguments
from haste_compiler.graph.capture import Captured, capture
from haste_compiler.graph.dynamic import BatchRange
from haste_compiler.graph.dynamic_shapes import batch_range, example_batch
from haste_compiler.graph.nodes import LEFT_TO_PYTORCH, drop_other_outputs
from haste_compiler.graph.randomness import refuse_random
from haste_compiler.graph.recurrence import refuse_recurrent
from haste_compiler.graph.training import warn_of_training
from haste_compiler.interrupts import check_interrupt, deferred_interrupts
from haste_compiler.methods.configs import ConfigLike, Configs
from haste_compiler.methods.layers import conv_layers
from haste_compiler.methods.pipeline import apply_beside, apply_methods
from haste_compiler.methods.registry import check_precision, rules_for
from haste_compiler.passes.hand_back import hand_back
from haste_compiler.passes.pipeline import Observer, rewrite
from haste_compiler.report.report import report_of
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.runtime.executable import Executable
from haste_compiler.runtime.specialization import Specialization
from haste_compiler.tuning.handing_back import slower_layers
from haste_compiler.tuning.tuner import tune_here
from haste_compiler.tuning.tuning import Tuning

log = logging.getLogger(__name__)

_MOST_WORK, _MOST_WORK_BESIDE_ROUNDED = 0.9, 0.45
"""Of a frame's multiply-adds: more take longer by tiles than the network takes for all, in float32 and in less."""

_TUNING_SECONDS = 120.0
"""What ``tune=True`` may take for one signature; what isn't measured by then is left to the model."""


@dataclass(frozen=True)
class Options:
    """How a network is compiled.

    Attributes:
        configs: of the methods.
        machine: what code is made for.
        tune: measure tilings of the dense kernels, or take these.
        cache: use the cache on disk.
        fallback: let PyTorch compute what no kernel does.
        beside: see ``compile_beside``.
    """

    configs: Configs
    machine: Machine
    tune: bool | Tuning = False
    cache: bool = True
    fallback: bool = True
    beside: bool = False


@deferred_interrupts()
def compile(  # noqa: PLR0913  (a user's options, each by name)
    model: Model,
    example_inputs: Sequence[Any] | Tensor | None = None,
    *,
    target: TargetLike = "llvm",
    config: ConfigLike = None,
    threads: int | None = None,
    tune: bool | Tuning | str | os.PathLike[str] = False,
    cache: bool = True,
    precision: str | None = None,
    dynamic: bool = False,
    dynamic_shapes: Any = None,
    fallback: bool = True,
) -> CompiledModule:
    """Compile a pretrained CNN so that it does less arithmetic on every input. No training, no data.

    The model itself is not changed. It is captured as it behaves in evaluation mode; where it is in training mode, and
    that makes a difference, there is a warning.

    Args:
        model: any model that ``torch.export`` captures, or what it returned.
        example_inputs: its positional arguments as a tuple (or one tensor): compile for them now. None: compile at the
            first call. Either way, inputs of other shapes are compiled when they first come.
        target: ``"llvm"`` for this machine, ``"llvm -mcpu=..."``, ``"cuda"`` for its card, ``"cuda -arch=sm_90"``, or
            TVM's dict form.
        config: a method's configuration, such as ``HasteConfig``, or a list of several; None: the default, which is
            safe and needs no data.
        threads: threads that a call uses; None: ``torch.get_num_threads()``.
        tune: True: measure tilings of the dense kernels on this machine instead of trusting the model of it; takes a
            minute or two, with a progress bar, the first time. What was measured is kept on disk. A layer that is
            clearly slower than PyTorch's own operators on the example inputs is left to these, if ``fallback`` lets
            it. Or what ``tune`` returned, or the file it was saved to: take that, and measure nothing.
        cache: keep the machine code in the cache on disk, and take it from there.
        precision: "int8" on a CPU: layers are computed in integers of 8 bits where that is faster and changes little,
            see ``QuantizedConfig``; no data is needed. "bf16" on a CPU that multiplies bfloat16: factors are rounded so
            where that is faster, sums are float32, see ``BFloat16Config``. On a card, "fp32", or by the tensor cores
            "tf32" or "bf16": operands are rounded so, sums are float32, and so is hashing. None: float32; on a card as
            PyTorch, by
            ``torch.backends.cudnn.conv.fp32_precision`` (which ``allow_tf32`` sets) for convolutions and
            ``torch.backends.cuda.matmul.fp32_precision`` for linear layers.
        dynamic: one compilation for all batches: the first axis of all inputs that agree in it may vary.
        dynamic_shapes: the same, for some inputs or within a range, in the form that ``torch.export`` takes: for each
            argument the axes that may vary, such as ``{"x": {0: Dim("batch", min=1, max=64)}}``. Only a batch may.
        fallback: let PyTorch's own operators compute what no kernel of ours does, inside the compiled network, which
            then needs PyTorch wherever it runs. False: refuse such networks.

    Raises:
        TargetError: the target is unknown. One that this machine can't run code for is compiled for, with example
            inputs, and saved; calls are refused.
        TuningError: ``tune`` is for another target or number of threads, or no tuning.
        ConfigError: ``config`` is none, the target doesn't have the precision or a method's kernels, or both
            ``dynamic`` and ``dynamic_shapes`` are given.
        CaptureError, UnsupportedOperatorError, ConfigError, InputError: with example inputs, as ``CompiledModule``.
    """
    network: nn.Module = as_module(model)
    example_inputs = check_arguments(network, example_inputs, threads)
    warn_of_training(network)
    if not isinstance(dynamic, bool) or (dynamic and dynamic_shapes is not None):
        raise ConfigError(f"dynamic is {dynamic!r}: allowed are True and False, and dynamic_shapes without it")
    varying, complete = dynamic or dynamic_shapes, parse_target(target)
    machine = machine_of(complete, threads or torch.get_num_threads())
    check_precision(machine, precision)
    configs, of_products = Configs.with_precision(config, precision, machine)
    configs.check(machine)
    machine = machine_of(complete, machine.threads, of_products)
    machine.check(tune=bool(tune), dynamic=bool(varying))
    tuning = tune if isinstance(tune, bool | Tuning) else Tuning.load(tune)
    if isinstance(tuning, Tuning):
        tuning.check(machine)
    compiled = _module(network, varying, Options(configs, machine, tuning, cache, fallback))
    if example_inputs is not None:
        compiled.prepare(*example_inputs)
    return compiled


def compile_beside(model: nn.Module, config: ConfigLike, *, target: TargetLike, threads: int) -> CompiledModule:
    """Compile a network that computes every layer plainly, and beside it by its method, which changes nothing after it.

    A call returns what the methods' layers return, by name. They can be steered, and tell their statistics and times,
    as in any compiled network.

    Args:
        model: in evaluation mode.
        config: as of ``compile``; what it lets a method take is taken, whatever is predicted.
        target: as of ``compile``.
        threads: that a call uses.
    """
    configs = Configs.of(config)
    machine = machine_of(parse_target(target), threads)
    return _module(model, False, Options(configs, machine, beside=True))


def _module(network: nn.Module, varying: Any, options: Options) -> CompiledModule:
    def specialize(inputs: Sequence[Any], configs: Configs, fit: Callable[[], None]) -> Specialization:
        return _specialize(network, inputs, varying, replace(options, configs=configs), fit)

    def specialize_stream(inputs: Sequence[Any], configs: Configs) -> tuple[Executable, StreamPlan]:
        return _specialize_stream(network, inputs, replace(options, configs=configs))

    return CompiledModule(network, specialize, options.configs, options.machine, specialize_stream, report_of)


def _specialize(
    model: nn.Module, inputs: Sequence[Any], varying: Any, options: Options, fit: Callable[[], None]
) -> Specialization:
    """Compile for the shapes of ``inputs``, but for the axes that vary; call ``fit`` once they are known to fit."""
    inputs = _at_home(model, inputs)
    batch = batch_range(model, inputs, varying)
    if batch is not None:
        inputs = example_batch(batch, inputs)
    captured = _capture(model, inputs, batch)
    fit()
    return compile_captured(captured, captured.flatten_inputs(inputs), options)


def _at_home(model: nn.Module, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """Inputs where the model's weights are: it may be on the card, or they."""
    home = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    placed: tuple[Any, ...] = tree_map_only(Tensor, lambda tensor: tensor.to(home), tuple(inputs))
    return placed


def _capture(model: nn.Module, inputs: Sequence[Any], batch: BatchRange | None = None) -> Captured:
    captured = capture(model, inputs, batch=batch)
    if captured.written:
        name = captured.written[0]
        raise CaptureError(
            f"{captured.name} writes to its input {name!r}, in place, and a compiled network leaves inputs alone: "
            f"compile a module whose forward calls it on {name}.clone()"
        )
    return captured


def _specialize_stream(model: nn.Module, inputs: Sequence[Any], options: Options) -> tuple[Executable, StreamPlan]:
    """Compile for streams of inputs of these shapes; their tiles are computed in float32."""
    machine, plain = options.machine, options.configs.in_float32()
    most_work = _MOST_WORK if plain == options.configs else _MOST_WORK_BESIDE_ROUNDED
    options = replace(options, configs=plain)
    streams = machine.streams()
    if streams is None:
        raise TargetError(f"there are no streams for {machine.name}: allowed are CPUs")
    inputs = _at_home(model, inputs)
    captured = _capture(model, inputs)
    leaves = captured.flatten_inputs(inputs)
    gm, _, _ = _prepared(captured, leaves, options, lambda name, gm: check_interrupt())
    drop_other_outputs(gm)
    machine = _tuned(gm, options)
    lowered, plan = lower_stream(gm, machine, rules_for(machine), streams, fallback=options.fallback)
    return _executable(gm, lowered, machine, options, "stream"), replace(plan, most_work=most_work)


def compile_captured(captured: Captured, leaves: Sequence[Any], options: Options) -> Specialization:
    """Compile a captured network: rewrite it, let the methods choose, lower it, build it.

    Args:
        captured: the network, captured for inputs like these.
        leaves: example inputs, flat.
        options: how.

    Raises:
        TargetError: tuning for a target that this machine can't run code for.
        UnsupportedOperatorError, ConfigError: see ``compile``.
    """
    machine, graphs = options.machine, {"capture": _text(captured.gm)}

    def observe(name: str, gm: fx.GraphModule) -> None:
        check_interrupt()
        graphs[name] = _text(gm)

    gm, configs, out_spec = _prepared(captured, leaves, options, observe)
    others = drop_other_outputs(gm)
    tuned_machine = _tuned(gm, options)
    executable = _build(gm, tuned_machine, captured, options)
    if options.tune is True and options.fallback:
        slower = slower_layers(executable, gm, leaves, machine.threads)
        if slower:
            log.info("left to PyTorch, which is faster here: %s", ", ".join(slower))
            gm = hand_back(gm, slower)
            observe("hand_back", gm)
            executable = _build(gm, tuned_machine, captured, options)
    return Specialization(executable, out_spec, conv_layers(gm, configs), graphs, others, captured.in_spec)


def _prepared(
    captured: Captured, leaves: Sequence[Any], options: Options, observe: Observer
) -> tuple[fx.GraphModule, Configs, Any]:
    """The graph that is lowered, over which the methods went, their configurations, and the tree of its outputs."""
    refuse_recurrent(captured.gm)
    configs = options.configs.configured(options.machine)
    if isinstance(options.tune, Tuning):
        configs = options.tune.configure(configs, {layer.name for layer in conv_layers(captured.gm)})
    gm, out_spec = rewrite(captured, observe), captured.out_spec
    if options.beside:
        gm, names = apply_beside(gm, configs, observe)
        out_spec = tree_structure(dict.fromkeys(names, 0))
    else:
        gm = apply_methods(gm, configs, observe, Pricing(options.machine, leaves))
    refuse_random(gm)
    return gm, configs, out_spec


def _tuned(gm: fx.GraphModule, options: Options) -> Machine:
    """The machine with the tilings that were, or are now, measured."""
    tuned = options.tune or None
    if tuned is True:
        tuned = tune_here(gm, options.machine, time.monotonic() + _TUNING_SECONDS)
    return tuned.applied(options.machine) if tuned else options.machine


def _build(gm: fx.GraphModule, machine: Machine, captured: Captured, options: Options) -> Executable:
    """Lower a graph and build it, or take it from the cache."""
    lowered = lower(gm, machine, rules_for(options.machine), captured.batch, fallback=options.fallback)
    return _executable(gm, lowered, machine, options)


def _executable(gm: fx.GraphModule, lowered: Lowered, machine: Machine, options: Options, *kind: str) -> Executable:
    missing = machine.missing()
    key = cache_key(_signature(gm), options.machine, lowered.plan, *kind) if options.cache and not missing else None
    return Executable(build(lowered, options.machine, key), lowered, machine.threads, missing)


def _text(gm: fx.GraphModule) -> str:
    return str(gm.graph)


def _signature(gm: fx.GraphModule) -> str:
    """All that the code depends on: every node, its arguments, shapes and dtypes, but no weights."""
    lines = []
    for node in gm.graph.nodes:
        value = node.meta.get("val")
        shape = (tuple(value.shape), str(value.dtype)) if isinstance(value, Tensor) else None
        left = LEFT_TO_PYTORCH in node.meta
        lines.append(f"{node.op} {node.name} {node.target} {node.args} {node.kwargs} {shape} {left}")
    return "\n".join(lines)
