"""``compile``: the whole pipeline. Each step is a folder: passes, codegen, runtime."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only
from tvm.target import Target

from haste_compiler.codegen.build import build, cache_key
from haste_compiler.codegen.cpu.target import TargetLike, cpu_name, missing_features, parse_target
from haste_compiler.codegen.cuda.tiling import Precisions, choose_precisions
from haste_compiler.codegen.machine import machine_of
from haste_compiler.cost.predictor import Predictor
from haste_compiler.errors import ConfigError, InputError, TargetError
from haste_compiler.graph.capture import Captured, capture
from haste_compiler.graph.dynamic_shapes import batch_range, example_batch
from haste_compiler.graph.randomness import refuse_random
from haste_compiler.graph.recurrence import refuse_recurrent
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.layers import conv_layers
from haste_compiler.passes.pipeline import run_passes
from haste_compiler.runtime.compiled import CompiledModule, Specialization
from haste_compiler.runtime.executable import Executable
from haste_compiler.tuning.device import LocalDevice
from haste_compiler.tuning.tuner import Tuner
from haste_compiler.tuning.tuning import Tuning

_TUNING_SECONDS = 120.0
"""What ``tune=True`` may take for one signature; what isn't measured by then is left to the model."""


def compile(
    model: nn.Module,
    example_inputs: Sequence[Any] | Tensor | None = None,
    *,
    target: TargetLike = "llvm",
    config: HasteConfig | None = None,
    threads: int | None = None,
    tune: bool | Tuning | str | os.PathLike[str] = False,
    cache: bool = True,
    precision: str | None = None,
    dynamic: bool = False,
    dynamic_shapes: Any = None,
) -> CompiledModule:
    """Compile a pretrained CNN so that it does less arithmetic on every input. No training, no data.

    The model itself is not changed. It is captured as it behaves in evaluation mode.

    Args:
        model: any model that ``torch.export`` captures.
        example_inputs: its positional arguments as a tuple (or one tensor): compile for them now. None: compile at the
            first call. Either way, inputs of other shapes are compiled when they first come.
        target: ``"llvm"`` for this machine, ``"llvm -mcpu=..."``, ``"cuda"`` for its card, ``"cuda -arch=sm_90"``, or
            TVM's dict form.
        config: what is merged, and how carefully; None: the default, which is safe and needs no data.
        threads: threads that a call uses; None: ``torch.get_num_threads()``.
        tune: True: measure tilings of the dense kernels on this machine instead of trusting the model of it; takes a
            minute or two, with a progress bar, the first time. What was measured is kept on disk. Or what ``tune``
            returned, or the file it was saved to: take that, and measure nothing.
        cache: keep the machine code in the cache on disk, and take it from there.
        precision: on a card, "fp32", or by the tensor cores "tf32" or "bf16": operands are rounded so, sums are
            float32, and so is hashing. None: as PyTorch, by ``torch.backends.cudnn.conv.fp32_precision`` (which
            ``allow_tf32`` sets) for convolutions and ``torch.backends.cuda.matmul.fp32_precision`` for linear layers.
        dynamic: one compilation for all batches: the first axis of all inputs that agree in it may vary.
        dynamic_shapes: the same, for some inputs or within a range, in the form that ``torch.export`` takes: for each
            argument the axes that may vary, such as ``{"x": {0: Dim("batch", min=1, max=64)}}``. Only a batch may.

    Raises:
        TargetError: the target is unknown. One that this machine can't run code for is compiled for, with example
            inputs, and saved; calls are refused.
        TuningError: ``tune`` is for another target or number of threads, or no tuning.
        ConfigError: both ``dynamic`` and ``dynamic_shapes`` are given.
        CaptureError, UnsupportedOperatorError, ConfigError, InputError: with example inputs, as ``CompiledModule``.
    """
    example_inputs = check_arguments(model, example_inputs, config, threads)
    if not isinstance(dynamic, bool) or (dynamic and dynamic_shapes is not None):
        raise ConfigError(f"dynamic is {dynamic!r}: allowed are True and False, and dynamic_shapes without it")
    machine, count = parse_target(target), threads or torch.get_num_threads()
    precisions, varying = choose_precisions(precision, machine), dynamic or dynamic_shapes
    machine_of(machine, count, precisions).check(tune, varying)
    tuning = tune if isinstance(tune, bool | Tuning) else Tuning.load(tune)
    if isinstance(tuning, Tuning):
        tuning.check(machine, count)

    def specialize(inputs: Sequence[Any], config: HasteConfig) -> Specialization:
        return _specialize(model, inputs, machine, config, count, tuning, cache, precisions, varying)

    compiled = CompiledModule(model, specialize, config or HasteConfig(), machine, count)
    if example_inputs is not None:
        compiled.prepare(*example_inputs)
    return compiled


def check_arguments(
    model: nn.Module, example_inputs: Sequence[Any] | Tensor | None, config: HasteConfig | None, threads: int | None
) -> Sequence[Any] | None:
    """Check what ``compile`` and ``tune`` are given; return the example inputs as a sequence.

    Raises:
        InputError, ConfigError: something has a wrong type.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {type(model).__name__}: allowed is a torch.nn.Module")
    if config is not None and not isinstance(config, HasteConfig):
        raise ConfigError(f"config is {type(config).__name__}: allowed is a HasteConfig")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads is {threads!r}: allowed are whole numbers from 1 on")
    if isinstance(example_inputs, Tensor):
        example_inputs = (example_inputs,)
    if not isinstance(example_inputs, Sequence | None) or isinstance(example_inputs, str):
        raise InputError(f"example_inputs is {type(example_inputs).__name__}: allowed are a tensor and a tuple")
    return example_inputs


def _specialize(
    model: nn.Module,
    inputs: Sequence[Any],
    target: Target,
    config: HasteConfig,
    threads: int,
    tune: bool | Tuning,
    cache: bool,
    precisions: Precisions,
    varying: Any,
) -> Specialization:
    """Compile for the shapes of ``inputs``, but for the axes that vary: capture, rewrite, lower, build."""
    # The model may be on the card, or the inputs: it is captured where its weights are.
    home = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    inputs = tree_map_only(Tensor, lambda tensor: tensor.to(home), tuple(inputs))
    batch = batch_range(model, inputs, varying)
    if batch is not None:
        inputs = example_batch(batch, inputs)
    captured = capture(model, inputs, batch=batch)
    return compile_captured(captured, captured.flatten_inputs(inputs), target, config, threads, precisions, tune, cache)


def compile_captured(
    captured: Captured,
    leaves: Sequence[Any],
    target: Target,
    config: HasteConfig,
    threads: int,
    precisions: Precisions,
    tune: bool | Tuning = False,
    cache: bool = True,
) -> Specialization:
    """Compile a captured network: rewrite, lower, build.

    Args:
        captured: the network, captured for inputs like these.
        leaves: example inputs, flat.
        target: a complete target.
        config: what is merged.
        threads: threads that tasks are cut for.
        precisions: of a card's products.
        tune: measure tilings of the dense kernels, or take these.
        cache: use the cache on disk.

    Raises:
        TargetError: tuning for a target that this machine can't run code for.
        UnsupportedOperatorError, ConfigError: see ``compile``.
    """
    missing = missing_features(target)
    if tune is True and missing:
        raise TargetError(f"tune: code for {cpu_name(target)} can't run here: this machine has no {', '.join(missing)}")
    refuse_recurrent(captured.gm)
    machine = machine_of(target, threads, precisions)
    config = machine.configure(config)
    if isinstance(tune, Tuning):
        config = tune.configure(config, {layer.name for layer in conv_layers(captured.gm)})
    graphs = {"capture": _text(captured.gm)}
    predict = Predictor(target, threads, leaves, machine.cost_model)
    gm = run_passes(captured, config, lambda name, gm: graphs.update({name: _text(gm)}), predict)
    refuse_random(gm)
    others = drop_other_outputs(gm)
    if tune is True:
        tune = Tuner(target, threads, LocalDevice(threads)).tune(gm, time.monotonic() + _TUNING_SECONDS)
    lowered = machine.lower(gm, tune.choose if tune else None, captured.batch)
    key = cache_key(_signature(gm), target, threads, lowered.plan) if cache and not missing else None
    executable = Executable(build(lowered, target, key), lowered, threads, missing)
    return Specialization(executable, captured.out_spec, conv_layers(gm, config), graphs, others, captured.in_spec)


def drop_other_outputs(gm: fx.GraphModule) -> dict[int, Any]:
    """Leave only tensors among a graph's outputs; return the rest (numbers, None) by position."""
    output = gm.graph.output_node()
    leaves = output.args[0]
    assert isinstance(leaves, Sequence)
    output.args = (tuple(leaf for leaf in leaves if isinstance(leaf, fx.Node)),)
    return {position: leaf for position, leaf in enumerate(leaves) if not isinstance(leaf, fx.Node)}


def _text(gm: fx.GraphModule) -> str:
    return str(gm.graph)


def _signature(gm: fx.GraphModule) -> str:
    """All that the code depends on: every node, its arguments, shapes and dtypes, but no weights."""
    lines = []
    for node in gm.graph.nodes:
        value = node.meta.get("val")
        shape = (tuple(value.shape), str(value.dtype)) if isinstance(value, Tensor) else None
        lines.append(f"{node.op} {node.name} {node.target} {node.args} {node.kwargs} {shape}")
    return "\n".join(lines)
