"""What can be measured of a HASTE layer: the kernels for several patches, on what it reads on a made-up image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, fx

from haste_compiler.codegen.cpu.machine import Cpu
from haste_compiler.codegen.job import Job
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.nodes import layer_name
from haste_compiler.methods.haste.config import HasteConfig, even_patch
from haste_compiler.methods.haste.cpu.convolve import haste_convolve_kernel
from haste_compiler.methods.haste.cpu.group import haste_group_kernel
from haste_compiler.methods.haste.cpu.hashing import pack_hyperplanes
from haste_compiler.methods.haste.cpu.layout import kept_images
from haste_compiler.methods.haste.cpu.reduction import Reduction
from haste_compiler.methods.haste.cpu.tiling import choose_haste_tiling
from haste_compiler.methods.haste.record import NAME
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.rewrite import joint_norm
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.methods.haste.sites import configured_geometry, sites
from haste_compiler.methods.method import Pricing, Tunable

Patch = tuple[int, int]

_SIDES = (8, 4, 14)
"""About how long a patch's sides are; first the default."""


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

    def job(self, patch: Patch, machine: Cpu) -> Job:
        """Their kernels for one patch."""
        config, unit, batch = self.config, machine.unit, self.x.shape[0]
        geometries = [dataclasses.replace(geometry, patch=patch) for geometry in self.geometries]
        drawn = draw_hyperplanes(geometries[0].window_pixels, config.seed, self.names[0], config.nonzeros)
        planes = pack_hyperplanes(drawn.numpy())
        reduction = Reduction(config.merge, config.skip)
        kept = kept_images(geometries[0], unit.lanes, machine.threads)
        kernels = {
            "group": haste_group_kernel(
                "group",
                geometries[0],
                batch,
                unit.lanes,
                reduction=reduction,
                planes=len(planes),
                kept=kept,
            )
        }
        for number, geometry in enumerate(geometries):
            tiling = choose_haste_tiling(geometry, batch, unit, machine.threads)
            symbol = f"convolve{number}"
            kernels[symbol] = haste_convolve_kernel(symbol, geometry, batch, tiling, reduction=reduction)
        values = {
            "x": self.x.permute(0, 2, 3, 1).contiguous().numpy(),
            "planes": planes,
            "filter_norm2": self.norm.double().square().float().numpy(),
            "settings": Settings.of(config).pack().numpy(),
        }
        return Job(kernels, values)


def tunables(gm: fx.GraphModule, config: HasteConfig, machine: Cpu, pricing: Pricing) -> Sequence[Tunable]:
    """The HASTE layers whose configuration leaves the patch open."""
    left_open = [site for site in sites(gm, config) if site.config.patch_size is None]
    if not left_open:
        return []
    inputs = pricing.natural(gm, [site.nodes[0].all_input_nodes[0] for site in left_open], 0)
    found = []
    for site, x in zip(left_open, inputs, strict=True):
        geometries = tuple(configured_geometry(node, site.config) for node in site.nodes)
        norm = joint_norm(gm, site.nodes, geometries[0].groups)
        layers = _Layers(tuple(map(layer_name, site.nodes)), geometries, site.config, x, norm)
        settings = [({"patch_size": list(patch)}, partial(layers.job, patch, machine)) for patch in layers.patches]
        found.append(Tunable(NAME, layers.names, settings))
    return found
