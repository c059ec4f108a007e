"""Toy as a ``Method``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from haste_compiler.codegen.program import Record
from haste_compiler.methods.method import Method, Parameter, Site, Verdict
from tests.methods.toy.config import ToyConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import fx

    from haste_compiler.codegen.machine import Machine
    from haste_compiler.codegen.tables import Rules
    from tests.methods.toy.replayed import Replayed
    from tests.methods.toy.statistics import ToyStats


class Toy(Method):
    """What a convolution reads is rounded."""

    NAME = "toy"
    TITLE = "Toy"
    CONFIG = ToyConfig
    PARAMETERS = (Parameter("step", lambda value: ToyConfig(step=value).step, float),)
    NEARER = "a smaller step"

    def sites(self, gm: fx.GraphModule, config: ToyConfig) -> list[Site]:
        """See ``Method``."""
        from tests.methods.toy.rewrite import sites

        return sites(gm, config)

    def judge(self, node: fx.Node, config: ToyConfig) -> Verdict | None:
        """See ``Method``."""
        from tests.methods.toy.rewrite import judge

        return judge(node, config)

    def rewrite(self, gm: fx.GraphModule, config: ToyConfig) -> fx.GraphModule:
        """See ``Method``."""
        from tests.methods.toy.rewrite import rewrite

        return rewrite(gm, config)

    def rules(self, machine: Machine) -> Rules:
        """See ``Method``."""
        if machine.KIND != "cpu":
            return {}
        from tests.methods.toy.cpu import RULES

        return RULES

    def read(
        self, record: Record, values: Sequence[float], statistics: Sequence[NDArray[Any]]
    ) -> Mapping[str, ToyStats]:
        """See ``Method``."""
        from tests.methods.toy.statistics import read

        return read(record, values, statistics)

    def neutral(self) -> tuple[float, ...]:
        """See ``Method``."""
        return (0.0,)

    def ladder(self) -> Sequence[tuple[float, ...]]:
        """See ``Method``."""
        return ((0.0625,), (0.25,), (1.0,))

    def searched(self, config: ToyConfig) -> ToyConfig:
        """See ``Method``."""
        return config.replace(layers={pattern: {**own, "step": 0.0} for pattern, own in config.layers.items()})

    def explored(self, config: ToyConfig, setting: Any = None) -> ToyConfig:
        """See ``Method``."""
        return config.replace(step=0.0)

    def override(self, values: Sequence[float], setting: Any) -> dict[str, Any]:
        """See ``Method``."""
        return {"step": values[0]}

    def deferred(self) -> tuple[Any, ...]:
        """See ``Method``."""
        from tests.methods.toy.operator import ROUND

        return (ROUND,)

    def replayed(self, node: fx.Node, values: Mapping[fx.Node, Any], steered: Sequence[float] | None) -> Replayed:
        """See ``Method``."""
        from tests.methods.toy.replayed import Replayed

        return Replayed.of(node, values, steered)


METHOD = Toy()
