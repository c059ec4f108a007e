"""HASTE as a ``Method``."""

from __future__ import annotations

import importlib
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from haste_compiler.codegen.program import Record
from haste_compiler.methods.haste.config import MAX_PATCH_SIZE, HasteConfig
from haste_compiler.methods.haste.record import NAME, check, from_group
from haste_compiler.methods.haste.settings import EXACT, LADDER, OFFERED, Settings
from haste_compiler.methods.method import Method, Parameter, Pricing, Site, Tunable, Verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import fx

    from haste_compiler.codegen.job import Trial
    from haste_compiler.codegen.machine import Machine
    from haste_compiler.codegen.tables import Rules
    from haste_compiler.graph.geometry import ConvGeometry
    from haste_compiler.methods.haste.replayed import Replayed
    from haste_compiler.methods.haste.statistics import LayerStats
    from haste_compiler.methods.merged_channels import MergedChannels
    from haste_compiler.methods.observed import Observed
    from haste_compiler.methods.prediction import Prediction
    from haste_compiler.methods.work_map import WorkMap

SMALL_PATCHES = (2, 4)
"""Patches that a search tries where multiply-adds are saved: windows of few pixels are flat or alike more often."""

LARGE_PATCHES = (8, 4)
"""Patches that are tried where time is saved: grouping and merging filters is paid for once a patch."""

_LEFT_TO_USERS = ("enabled", "merge", "nonzeros", "seed", "min_channels")
"""Fields of a layer's overrides that a search doesn't decide."""


def _parameter(name: str) -> Parameter:
    def read(value: Any) -> float:
        # The configuration knows every range and words the error.
        checked = getattr(HasteConfig().replace(**{name: value}), name)
        return math.inf if checked is None else checked

    def written(value: float) -> Any:
        if math.isinf(value):
            return None
        return int(value) if name == "num_hyperplanes" else float(f"{value:.7g}")

    return Parameter(name, read, written, OFFERED[name])


class Haste(Method):
    """Channels of a patch that are alike are merged, those that are flat dropped."""

    NAME = NAME
    TITLE = "HASTE"
    CONFIG = HasteConfig
    PARAMETERS = tuple(map(_parameter, Settings._fields))
    OTHER_SETTINGS = True
    NEARER = "a lower tolerance, flat_tolerance, or more hyperplanes"

    def default(self) -> HasteConfig:
        """See ``Method``."""
        return HasteConfig()

    def configured(self, config: HasteConfig, machine: Machine) -> HasteConfig:
        """See ``Method``.

        Merging filters for a small patch takes a card longer than convolving it: the whole image is one.
        """
        whole = machine.KIND == "cuda" and config.patch_size is None
        return config.replace(patch_size=MAX_PATCH_SIZE) if whole else config

    def sites(self, gm: fx.GraphModule, config: HasteConfig) -> list[Site]:
        """See ``Method``."""
        from haste_compiler.methods.haste.sites import sites

        return sites(gm, config)

    def judge(self, node: fx.Node, config: HasteConfig) -> Verdict | None:
        """See ``Method``."""
        from haste_compiler.methods.haste.sites import judge

        return judge(node, config)

    def check_layers(self, gm: fx.GraphModule, config: HasteConfig) -> None:
        """See ``Method``."""
        from haste_compiler.methods.haste.rewrite import check_layers

        check_layers(gm, config)

    def price(self, gm: fx.GraphModule, sites: Sequence[Site], pricing: Pricing) -> list[list[Prediction]]:
        """See ``Method``."""
        from haste_compiler.methods.haste.prices import price

        return price(gm, sites, pricing)

    def rewrite(self, gm: fx.GraphModule, config: HasteConfig) -> fx.GraphModule:
        """See ``Method``."""
        from haste_compiler.methods.haste.rewrite import rewrite_haste

        return rewrite_haste(gm, config)

    def convolutions(self) -> Mapping[Any, int]:
        """See ``Method``."""
        from haste_compiler.methods.haste.ops.convolve import CONVOLVE

        return {CONVOLVE.overloadpacket: 4}

    def unread(self, record: Record) -> Mapping[str, str]:
        """See ``Method``."""
        skip = record.data["skip"]
        return {} if skip == "flat" else {"flat_tolerance": f"skip={skip!r} is compiled in"}

    def rules(self, machine: Machine) -> Rules:
        """See ``Method``."""
        rules: Rules = importlib.import_module(f"haste_compiler.methods.haste.{machine.KIND}.rules").RULES
        return rules

    def phases(self) -> Mapping[str, tuple[str, ...]]:
        """See ``Method``."""
        from haste_compiler.methods.haste.cpu.cost import PHASES

        return PHASES

    def calibration(self, machine: Any) -> Iterable[Trial]:
        """See ``Method``."""
        from haste_compiler.methods.haste.cpu.calibration import trials

        return trials(machine)

    def tunables(self, gm: fx.GraphModule, config: HasteConfig, machine: Any, pricing: Pricing) -> Sequence[Tunable]:
        """See ``Method``."""
        from haste_compiler.methods.haste.cpu.tuning import tunables

        return tunables(gm, config, machine, pricing)

    def read(
        self, record: Record, values: Sequence[float], statistics: Sequence[NDArray[Any]]
    ) -> Mapping[str, LayerStats]:
        """See ``Method``."""
        from haste_compiler.methods.haste.statistics import read

        return read(record, values, statistics)

    def work_maps(self, stats: Mapping[str, Any], shape: Sequence[int], image: int) -> Mapping[str, WorkMap]:
        """See ``Method``."""
        return {name: layer.work_map(image) for name, layer in stats.items()}

    def check(self, record: Record) -> None:
        """See ``Method``."""
        check(record)

    def upgraded(self, stored: Mapping[str, Any]) -> Record:
        """See ``Method``."""
        return from_group(stored)

    def neutral(self) -> tuple[float, ...]:
        """See ``Method``."""
        return EXACT

    def ladder(self) -> Sequence[tuple[float, ...]]:
        """See ``Method``."""
        return LADDER

    def searched(self, config: HasteConfig) -> HasteConfig:
        """See ``Method``."""
        own = {
            pattern: {name: value for name, value in override.items() if name in _LEFT_TO_USERS}
            for pattern, override in config.layers.items()
        }
        layers = {pattern: override for pattern, override in own.items() if override}
        return config.replace(skip="flat", min_reads=0, layers=layers)

    def explored(self, config: HasteConfig, setting: Any = None) -> HasteConfig:
        """See ``Method``."""
        planes, tolerance, flat_tolerance = EXACT
        return config.replace(
            enabled=True,
            cost_model=False,
            patch_size=config.patch_size if setting is None else setting,
            num_hyperplanes=planes,
            tolerance=tolerance,
            flat_tolerance=flat_tolerance,
        )

    def settings(self, timed: bool) -> Sequence[Any]:
        """See ``Method``: the patches."""
        return LARGE_PATCHES if timed else SMALL_PATCHES

    def alike(self, geometry: ConvGeometry, setting: Any) -> Hashable:
        """See ``Method``: a patch larger than the output plane is cut to it."""
        patch = HasteConfig(patch_size=setting).patch_for(geometry.output_size)
        return replace(geometry, patch=patch).effective_patch

    def override(self, values: Sequence[float], setting: Any) -> dict[str, Any]:
        """See ``Method``."""
        steered = {each.name: each.written(value) for each, value in zip(self.PARAMETERS, values, strict=True)}
        return {"enabled": True, "cost_model": False, "patch_size": setting, **steered}

    def deferred(self) -> tuple[Any, ...]:
        """See ``Method``."""
        from haste_compiler.methods.haste.ops.group import GROUP
        from haste_compiler.methods.haste.ops.hash import HASH
        from haste_compiler.methods.haste.ops.merge import MERGE

        return HASH, GROUP, MERGE

    def merged_channels(self, observed: Observed) -> MergedChannels | None:
        """See ``Method``."""
        from haste_compiler.methods.haste.replayed import Replayed

        layer = Replayed.of(observed.node, observed.values, observed.steered)
        return layer.merged_channels(observed.image)

    def replayed(self, node: fx.Node, values: Mapping[fx.Node, Any], steered: Sequence[float] | None) -> Replayed:
        """See ``Method``."""
        from haste_compiler.methods.haste.replayed import Replayed

        return Replayed.of(node, values, steered)


METHOD = Haste()
