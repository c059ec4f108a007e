"""``tune``: the tilings, algorithms and patches of a network, by measurement."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.machine import Machine
from haste_compiler.codegen.target import TargetLike, machine_of, parse_target
from haste_compiler.cost.pricing import Pricing
from haste_compiler.errors import InputError, TargetError
from haste_compiler.graph.arguments import Model, as_module, check_arguments
from haste_compiler.graph.capture import capture
from haste_compiler.graph.nodes import drop_other_outputs
from haste_compiler.interrupts import deferred_interrupts
from haste_compiler.methods.configs import ConfigLike, Configs
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.runtime.torch_threads import with_torch
from haste_compiler.tuning.device import Device, LocalDevice
from haste_compiler.tuning.remote import RemoteDevices
from haste_compiler.tuning.settings import SettingsTuner
from haste_compiler.tuning.tuner import Tuner
from haste_compiler.tuning.tuning import Tuning


@deferred_interrupts()
def tune(  # noqa: PLR0913  (a user's options, each by name)
    model: Model,
    example_inputs: Sequence[Any] | Tensor,
    *,
    target: TargetLike = "llvm",
    config: ConfigLike = None,
    threads: int | None = None,
    seconds: float | None = None,
    tracker: str | None = None,
    key: str | None = None,
    save: str | PathLike[str] | None = None,
) -> Tuning:
    """Measure what is fastest for every layer of a network: tiling and algorithm of dense ones, patch of HASTE ones.

    Tilings are kept in the cache on disk, by shape, target, threads and version, and not measured again. Give what this
    returns to ``compile(..., tune=...)``, together with the same target, threads and configuration.

    Args:
        model: any model that ``compile`` takes.
        example_inputs: its positional arguments as a tuple (or one tensor).
        target: what is compiled for, see ``compile``; a CPU.
        config: as for ``compile``.
        threads: threads that a call uses; None: ``torch.get_num_threads()``.
        seconds: when to stop; what isn't begun by then is left to the model. None: never.
        tracker: "host:port" of a TVM RPC tracker: measure on the servers that it knows, side by side, instead of here.
        key: the key of those servers.
        save: also write what was found to this file, for ``compile(..., tune=path)`` here or elsewhere.

    Raises:
        TuningError: the tracker can't be reached, or no server is left. What was measured until then is kept.
        TargetError: the target is unknown, no CPU, or this machine can't run its code and no tracker is given.
        CaptureError, UnsupportedOperatorError, ConfigError, InputError: as ``compile``.
    """
    network: nn.Module = as_module(model)
    inputs = check_arguments(network, example_inputs, threads)
    if inputs is None:
        raise InputError("example_inputs is None: tuning needs the network's inputs")
    if seconds is not None and not seconds > 0:
        raise InputError(f"seconds is {seconds!r}: allowed are numbers above 0, and None")
    configs, machine = Configs.of(config), machine_of(parse_target(target), threads or torch.get_num_threads())
    device = _device(machine, tracker, key)
    assert isinstance(machine, Cpu)
    deadline = math.inf if seconds is None else time.monotonic() + seconds

    def measure() -> Tuning:
        captured = capture(network, tuple(inputs))
        leaves = captured.flatten_inputs(inputs)
        settings = SettingsTuner(leaves, configs, machine, device)
        gm = run_passes(captured, configs, settings.observe, Pricing(machine, leaves))
        drop_other_outputs(gm)
        tuning = Tuner(machine, device).tune(gm, deadline)
        return dataclasses.replace(tuning, settings=settings.tune(deadline))

    tuning = with_torch(measure)
    if save is not None:
        tuning.save(save)
    return tuning


def _device(machine: Machine, tracker: str | None, key: str | None) -> Device:
    machine.check(tune=True, dynamic=False)
    if (tracker is None) != (key is None):
        raise InputError("tracker and key belong together: the tracker's address, and the key of its servers")
    if tracker is not None and key is not None:
        return RemoteDevices(tracker, key, machine.threads)
    missing = machine.missing()
    if missing:
        raise TargetError(
            f"tune: code for {machine.name} can't run here: this machine has no {', '.join(missing)}; give tracker "
            "and key to measure on machines that have it"
        )
    return LocalDevice(machine.threads)
