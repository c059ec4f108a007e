"""Flat tiles as a ``Method``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from haste_compiler.methods.flat.config import NAME, FlatConfig
from haste_compiler.methods.flat.statistics import FlatStats, check, read
from haste_compiler.methods.method import Method, Parameter, Site, Verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import fx

    from haste_compiler.codegen.machine import Machine
    from haste_compiler.codegen.program import Record
    from haste_compiler.codegen.tables import Rules
    from haste_compiler.methods.observed import Observed
    from haste_compiler.methods.work_map import WorkMap


_OFFERED = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def _read_tolerance(value: Any) -> float:
    return FlatConfig().replace(tile_tolerance=value).tile_tolerance


class Flat(Method):
    """Tiles of outputs that read alike windows are computed once."""

    NAME = NAME
    TITLE = "flat tiles"
    CONFIG = FlatConfig
    PARAMETERS = (Parameter("tile_tolerance", _read_tolerance, lambda value: float(f"{value:.7g}"), _OFFERED),)
    NEARER = "a lower tile_tolerance"

    def sites(self, gm: fx.GraphModule, config: FlatConfig) -> list[Site]:
        """See ``Method``."""
        from haste_compiler.methods.flat.sites import sites

        return sites(gm, config)

    def judge(self, node: fx.Node, config: FlatConfig) -> Verdict | None:
        """See ``Method``."""
        from haste_compiler.methods.flat.sites import judge

        return judge(node, config)

    def check_layers(self, gm: fx.GraphModule, config: FlatConfig) -> None:
        """See ``Method``."""
        from haste_compiler.methods.flat.rewrite import check_layers

        check_layers(gm, config)

    def rewrite(self, gm: fx.GraphModule, config: FlatConfig) -> fx.GraphModule:
        """See ``Method``."""
        from haste_compiler.methods.flat.rewrite import rewrite_flat

        return rewrite_flat(gm, config)

    def convolutions(self) -> Mapping[Any, int]:
        """See ``Method``."""
        from haste_compiler.methods.flat.ops.conv2d import FLAT_CONV2D

        return {FLAT_CONV2D.overloadpacket: 2}

    def rules(self, machine: Machine) -> Rules:
        """See ``Method``."""
        if self.requirement(machine):
            return {}
        rules: Rules = importlib.import_module("haste_compiler.methods.flat.cpu.rules").RULES
        return rules

    def requirement(self, machine: Machine) -> str:
        """See ``Method``."""
        return "" if machine.KIND == "cpu" else f"{self.CONFIG.__name__} is for CPUs"

    def read(
        self, record: Record, values: Sequence[float], statistics: Sequence[NDArray[Any]]
    ) -> Mapping[str, FlatStats]:
        """See ``Method``."""
        return read(record, values, statistics)

    def check(self, record: Record) -> None:
        """See ``Method``."""
        check(record)

    def neutral(self) -> tuple[float, ...]:
        """See ``Method``."""
        return (0.0,)

    def reference_work_map(self, observed: Observed) -> WorkMap | None:
        """See ``Method``: the kernels count tiles, and don't say which."""
        from haste_compiler.methods.flat.reference.work import reference_work_map

        return reference_work_map(observed)


METHOD = Flat()
