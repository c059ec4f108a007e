"""Where in an image a compiled network did its work, as far as its kernels count it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from haste_compiler.methods.registry import method
from haste_compiler.methods.statistics import LayerStatistics
from haste_compiler.methods.work_map import WorkMap


def work_maps(stats: Mapping[str, LayerStatistics], shape: Sequence[int], image: int = 0) -> dict[str, WorkMap]:
    """The map of each layer that has one, by name, in order; it takes no longer than a call's statistics do.

    ``evidence.collect`` adds those that only a method's definition knows.

    Args:
        stats: what ``CompiledModule.stats`` or ``run_with_stats`` returned.
        shape: of the images in that call, (N, C, H, W).
        image: of the batch.
    """
    by_method: dict[str, dict[str, LayerStatistics]] = {}
    for name, layer in stats.items():
        by_method.setdefault(layer.method, {})[name] = layer
    found: dict[str, WorkMap] = {}
    for owner, own in by_method.items():
        found |= method(owner).work_maps(own, shape, image)
    return {name: found[name] for name in stats if name in found}
