"""The patch of every HASTE layer by measurement: its kernels, timed on what the layer reads on a made-up image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, fx
from tvm.target import Target

from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.cost.images import dead_leaves
from haste_compiler.cost.probe import probe_values
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.nodes import layer_name
from haste_compiler.methods.choose import choose_layers, sharings
from haste_compiler.methods.haste.config import HasteConfig, even_patch
from haste_compiler.methods.haste.cpu.convolve import haste_convolve_kernel
from haste_compiler.methods.haste.cpu.group import haste_group_kernel
from haste_compiler.methods.haste.cpu.hashing import pack_hyperplanes
from haste_compiler.methods.haste.cpu.tiling import choose_haste_tiling
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.rewrite import joint_norm
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.methods.layers import configured_geometry
from haste_compiler.tuning.device import Device, Job
from haste_compiler.tuning.jobs import time_jobs

Patch = tuple[int, int]

_SIDES = (8, 4, 14)
"""About how long a patch's sides are; first the default."""

_SURELY_FASTER = 0.95
"""Another patch than the default must take no more than this share of its time."""


@dataclass(frozen=True)
class _Layers:
    """HASTE layers that share a grouping.

    Attributes:
        names: qualified.
        geometries: of each, with any patch.
        config: of all.
        x: what they read, (N, C, H, W).
        norm: |F_c| over all their filters, (C,).
    """

    names: tuple[str, ...]
    geometries: tuple[ConvGeometry, ...]
    config: HasteConfig
    x: Tensor
    norm: Tensor

    @property
    def patches(self) -> list[Patch]:
        """Those to try, the default first."""
        return list(dict.fromkeys(even_patch(self.geometries[0].output_size, side) for side in _SIDES))

    def job(self, patch: Patch, target: Target, threads: int) -> Job:
        """Their kernels for one patch."""
        config, unit, batch = self.config, vector_unit(target), self.x.shape[0]
        geometries = [dataclasses.replace(geometry, patch=patch) for geometry in self.geometries]
        drawn = draw_hyperplanes(geometries[0].window_pixels, config.seed, self.names[0], config.nonzeros)
        planes = pack_hyperplanes(drawn.numpy())
        kernels = {
            "group": haste_group_kernel(
                "group", geometries[0], batch, unit.lanes, merge=config.merge, skip=config.skip, planes=len(planes)
            )
        }
        for number, geometry in enumerate(geometries):
            tiling = choose_haste_tiling(geometry, batch, unit, threads)
            symbol = f"convolve{number}"
            kernels[symbol] = haste_convolve_kernel(symbol, geometry, batch, tiling, skip=config.skip)
        values = {
            "x": self.x.permute(0, 2, 3, 1).contiguous().numpy(),
            "planes": planes,
            "filter_norm2": self.norm.double().square().float().numpy(),
            "settings": Settings.of(config).pack().numpy(),
        }
        return Job(kernels, values)


class PatchTuner:
    """Measures every HASTE layer whose configuration leaves the patch open.

    Args:
        examples: the network's flat inputs; float images among them are replaced by a made-up one.
        config: what is merged.
        target: what the code is for.
        threads: threads that work on it.
        device: what measures.
    """

    def __init__(self, examples: Sequence[Any], config: HasteConfig, target: Target, threads: int, device: Device):
        self._examples, self._config, self._target, self._threads = examples, config, target, threads
        self._device = device
        self._found: list[_Layers] = []

    def observe(self, name: str, gm: fx.GraphModule) -> None:
        """The observer of ``run_passes``: sees which layers become HASTE layers, and what they read."""
        if name != choose_layers.__name__:
            return
        left_open = [sharing for sharing in sharings(gm, self._config) if sharing.config.patch_size is None]
        if not left_open:
            return
        sources = [sharing.nodes[0].all_input_nodes[0] for sharing in left_open]
        inputs = probe_values(gm, sources, self._examples, dead_leaves, 0)
        for sharing, x in zip(left_open, inputs, strict=True):
            geometries = tuple(configured_geometry(node, sharing.config) for node in sharing.nodes)
            norm = joint_norm(gm, sharing.nodes, geometries[0].groups)
            self._found.append(_Layers(tuple(map(layer_name, sharing.nodes)), geometries, sharing.config, x, norm))

    def tune(self, deadline: float) -> dict[str, Patch]:
        """Measure, with a progress bar.

        Args:
            deadline: by ``time.monotonic``; nothing is begun after it.

        Returns:
            The fastest patch, by layer, where it is surely faster than the default.

        Raises:
            TuningError: the device gave up.
        """
        jobs = {
            (layers.names, patch): partial(layers.job, patch, self._target, self._threads)
            for layers in self._found
            for patch in layers.patches
        }
        timed = time_jobs(jobs, self._device, self._target, deadline, "tuning patches")
        times = {key: sum(kernels.values()) for key, kernels in timed}
        chosen: dict[str, Patch] = {}
        for layers in self._found:
            default, *others = layers.patches
            limit = _SURELY_FASTER * times.get((layers.names, default), 0.0)
            measured = ((times.get((layers.names, patch), limit), patch) for patch in others)
            seconds, best = min(measured, default=(limit, default))
            if seconds < limit:
                chosen |= dict.fromkeys(layers.names, best)
        return chosen
