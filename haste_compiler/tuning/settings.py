"""What methods' configurations leave open, by measurement: kernels timed on what a layer reads on a made-up image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.cost.pricing import Pricing
from haste_compiler.methods.choose import choose_layers
from haste_compiler.methods.configs import Configs
from haste_compiler.methods.method import Tunable
from haste_compiler.tuning.device import Device
from haste_compiler.tuning.jobs import time_jobs

_SURELY_FASTER = 0.95
"""Another setting than the default must take no more than this share of its time."""


class SettingsTuner:
    """Measures every layer of a method whose configuration leaves something open that can be measured.

    Args:
        examples: the network's flat inputs; float images among them are replaced by a made-up one.
        configs: of the methods.
        machine: what the code is for.
        device: what measures.
    """

    def __init__(self, examples: Sequence[Any], configs: Configs, machine: Cpu, device: Device) -> None:
        self._pricing, self._configs, self._machine, self._device = Pricing(machine, examples), configs, machine, device
        self._found: list[Tunable] = []

    def observe(self, name: str, gm: fx.GraphModule) -> None:
        """The observer of ``run_passes``: sees which layers methods take, and what they read."""
        if name == choose_layers.__name__:
            for method, config in self._configs:
                self._found += method.tunables(gm, config, self._machine, self._pricing)

    def tune(self, deadline: float) -> dict[str, dict[str, Mapping[str, Any]]]:
        """Measure, with a progress bar.

        Args:
            deadline: by ``time.monotonic``; nothing is begun after it.

        Returns:
            By method and layer, the fields of its override under which it is fastest, where that is surely faster than
            the default.

        Raises:
            TuningError: the device gave up.
        """
        jobs = {(each.layers, place): job for each in self._found for place, (_, job) in enumerate(each.settings)}
        timed = time_jobs(jobs, self._device, self._machine.target, deadline, "tuning settings")
        times = {key: sum(kernels.values()) for key, kernels in timed}
        chosen: dict[str, dict[str, Mapping[str, Any]]] = {}
        for each in self._found:
            limit = _SURELY_FASTER * times.get((each.layers, 0), 0.0)
            measured = ((times.get((each.layers, place), limit), place) for place in range(1, len(each.settings)))
            seconds, best = min(measured, default=(limit, 0))
            if seconds < limit:
                chosen.setdefault(each.method, {}).update(dict.fromkeys(each.layers, each.settings[best][0]))
        return chosen
