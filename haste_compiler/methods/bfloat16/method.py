"""bfloat16 as a ``Method``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from haste_compiler.methods.bfloat16.config import NAME, BFloat16Config
from haste_compiler.methods.bfloat16.options import PRECISION
from haste_compiler.methods.method import Method, Pricing, Site, Verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import fx

    from haste_compiler.codegen.machine import Machine
    from haste_compiler.codegen.program import Record
    from haste_compiler.codegen.tables import Rules
    from haste_compiler.methods.prediction import Prediction
    from haste_compiler.methods.rounded_layer import RoundedLayer
    from haste_compiler.methods.statistics import LayerStatistics


class BFloat16(Method):
    """Layers multiply in bfloat16, on machines that can, and sum in float32."""

    NAME = NAME
    TITLE = "bf16"
    CONFIG = BFloat16Config
    PRECISION = PRECISION
    NEARER = "a lower max_error"
    MOST_TIME = 0.9

    def sites(self, gm: fx.GraphModule, config: BFloat16Config) -> list[Site]:
        """See ``Method``."""
        from haste_compiler.methods.bfloat16.sites import sites

        return sites(gm, config)

    def judge(self, node: fx.Node, config: BFloat16Config) -> Verdict | None:
        """See ``Method``."""
        from haste_compiler.methods.bfloat16.sites import judge

        return judge(node, config)

    def check_layers(self, gm: fx.GraphModule, config: BFloat16Config) -> None:
        """See ``Method``."""
        from haste_compiler.methods.bfloat16.rewrite import check_layers

        check_layers(gm, config)

    def price(self, gm: fx.GraphModule, sites: Sequence[Site], pricing: Pricing) -> list[list[Prediction]]:
        """See ``Method``."""
        from haste_compiler.methods.bfloat16.prices import price

        return price(gm, sites, pricing)

    def rewrite(self, gm: fx.GraphModule, config: BFloat16Config) -> fx.GraphModule:
        """See ``Method``."""
        from haste_compiler.methods.bfloat16.rewrite import rewrite_bfloat16

        return rewrite_bfloat16(gm, config)

    def arithmetic(self, setting: Any) -> str:
        """See ``Method``."""
        return "bfloat16"

    def convolutions(self) -> Mapping[Any, int]:
        """See ``Method``."""
        from haste_compiler.methods.bfloat16.ops.conv2d import BFLOAT16_CONV2D
        from haste_compiler.methods.bfloat16.ops.linear import BFLOAT16_LINEAR
        from haste_compiler.methods.bfloat16.ops.winograd import BFLOAT16_WINOGRAD

        places = {BFLOAT16_CONV2D: 1, BFLOAT16_LINEAR: 1, BFLOAT16_WINOGRAD: 2}
        return {operator.overloadpacket: place for operator, place in places.items()}

    def rules(self, machine: Machine) -> Rules:
        """See ``Method``."""
        if self.requirement(machine):
            return {}
        rules: Rules = importlib.import_module("haste_compiler.methods.bfloat16.cpu.rules").RULES
        return rules

    def requirement(self, machine: Machine) -> str:
        """See ``Method``."""
        if machine.KIND != "cpu":
            return f"{self.CONFIG.__name__} is for CPUs"
        unit = importlib.import_module("haste_compiler.methods.bfloat16.cpu.unit")
        if unit.bfloat16_unit(machine.target) is None:
            return f"bfloat16 needs a CPU that multiplies it, such as {unit.EXAMPLES}"
        return ""

    def read(
        self, record: Record, values: Sequence[float], statistics: Sequence[NDArray[Any]]
    ) -> Mapping[str, LayerStatistics]:
        """See ``Method``: there are no records, for there is nothing to tell of a call."""
        self.check(record)
        return {}

    def check(self, record: Record) -> None:
        """See ``Method``."""
        raise ValueError(f"{self.NAME} leaves no records")

    def replayed(self, node: fx.Node, values: Mapping[fx.Node, Any], steered: Sequence[float] | None) -> RoundedLayer:
        """See ``Method``."""
        from haste_compiler.methods.bfloat16.replayed import replayed

        return replayed(node, values)


METHOD = BFloat16()
