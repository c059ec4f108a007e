"""The patch of every HASTE layer by measurement: its kernels, timed on what the layer reads on a made-up image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, fx
from tvm.target import Target

from haste_compiler.codegen.cpu.haste_convolve import choose_haste_tiling, haste_convolve_kernel
from haste_compiler.codegen.cpu.haste_group import haste_group_kernel, pack_hyperplanes
from haste_compiler.codegen.target import vector_unit
from haste_compiler.config import HasteConfig, even_patch
from haste_compiler.cost.images import dead_leaves
from haste_compiler.cost.probe import probe_values
from haste_compiler.haste.hyperplanes import draw_hyperplanes
from haste_compiler.haste.settings import Settings
from haste_compiler.passes.choose_layers import Sharing, choose_layers, sharings
from haste_compiler.passes.layers import configured_geometry, layer_name
from haste_compiler.passes.rewrite_haste import joint_norm
from haste_compiler.tuning.device import Device, Job
from haste_compiler.tuning.jobs import time_jobs

Patch = tuple[int, int]

_SIDES = (8, 4, 14)
"""About how long a patch's sides are; first the default."""

_SURELY_FASTER = 0.95
"""Another patch than the default must take no more than this share of its time."""


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
        self._patches: dict[tuple[str, ...], list[Patch]] = {}
        self._jobs: dict[tuple[tuple[str, ...], Patch], Callable[[], Job]] = {}

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
            layers = tuple(map(layer_name, sharing.nodes))
            geometry = configured_geometry(sharing.nodes[0], sharing.config)
            norm = joint_norm(gm, sharing.nodes, geometry.groups)
            self._patches[layers] = list(dict.fromkeys(even_patch(geometry.output_size, side) for side in _SIDES))
            for patch in self._patches[layers]:
                self._jobs[layers, patch] = partial(_job, sharing, patch, x, norm, self._target, self._threads)

    def tune(self, deadline: float) -> dict[str, Patch]:
        """Measure, with a progress bar.

        Args:
            deadline: by ``time.monotonic``; nothing is begun after it.

        Returns:
            The fastest patch, by layer, where it is surely faster than the default.

        Raises:
            TuningError: the device gave up.
        """
        timed = time_jobs(self._jobs, self._device, self._target, deadline, "tuning patches")
        times = {key: sum(kernels.values()) for key, kernels in timed}
        found: dict[str, Patch] = {}
        for layers, (default, *others) in self._patches.items():
            limit = _SURELY_FASTER * times.get((layers, default), 0.0)
            timed_others = ((times.get((layers, patch), limit), patch) for patch in others)
            seconds, best = min(timed_others, default=(limit, default))
            if seconds < limit:
                found |= dict.fromkeys(layers, best)
        return found


def _job(sharing: Sharing, patch: Patch, x: Tensor, norm: Tensor, target: Target, threads: int) -> Job:
    """The kernels of convolutions that share a grouping, for one patch, on ``x``, their input (N, C, H, W)."""
    config, unit, batch = sharing.config.replace(patch_size=patch), vector_unit(target), x.shape[0]
    geometries = [configured_geometry(node, config) for node in sharing.nodes]
    drawn = draw_hyperplanes(geometries[0].window_pixels, config.seed, layer_name(sharing.nodes[0]), config.nonzeros)
    planes = pack_hyperplanes(drawn.numpy())
    kernels = {
        "group": haste_group_kernel(
            "group", geometries[0], batch, unit.lanes, merge=config.merge, skip=config.skip, planes=len(planes)
        )
    }
    for number, geometry in enumerate(geometries):
        tiling = choose_haste_tiling(geometry, batch, unit, threads)
        symbol = f"convolve{number}"
        kernels[symbol] = haste_convolve_kernel(symbol, geometry, batch, unit.lanes, tiling, skip=config.skip)
    values = {
        "x": x.permute(0, 2, 3, 1).contiguous().numpy(),
        "planes": planes,
        "filter_norm2": norm.double().square().float().numpy(),
        "settings": Settings.of(config).pack().numpy(),
    }
    return Job(kernels, values)
