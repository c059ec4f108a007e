"""Integers of 8 bits as a ``Method``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from haste_compiler.methods.config import WINOGRAD_SIZES
from haste_compiler.methods.method import Method, Pricing, Site, Verdict
from haste_compiler.methods.quantized.config import NAME, QuantizedConfig
from haste_compiler.methods.quantized.options import PRECISION

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import fx

    from haste_compiler.codegen.machine import Machine
    from haste_compiler.codegen.program import Record
    from haste_compiler.codegen.tables import Rules
    from haste_compiler.graph.geometry import ConvGeometry
    from haste_compiler.methods.prediction import Prediction
    from haste_compiler.methods.rounded_layer import RoundedLayer
    from haste_compiler.methods.statistics import LayerStatistics

_LEFT_TO_USERS = ("enabled",)
"""Fields of a layer's overrides that a search doesn't decide."""


class Quantized(Method):
    """Layers are computed in integers of 8 bits, by scales that are found while the network runs."""

    NAME = NAME
    TITLE = "int8"
    CONFIG = QuantizedConfig
    PRECISION = PRECISION
    NEARER = "a lower max_error"
    MOST_TIME = 0.9

    def sites(self, gm: fx.GraphModule, config: QuantizedConfig) -> list[Site]:
        """See ``Method``."""
        from haste_compiler.methods.quantized.sites import sites

        return sites(gm, config)

    def judge(self, node: fx.Node, config: QuantizedConfig) -> Verdict | None:
        """See ``Method``."""
        from haste_compiler.methods.quantized.sites import judge

        return judge(node, config)

    def check_layers(self, gm: fx.GraphModule, config: QuantizedConfig) -> None:
        """See ``Method``."""
        from haste_compiler.methods.quantized.rewrite import check_layers

        check_layers(gm, config)

    def price(self, gm: fx.GraphModule, sites: Sequence[Site], pricing: Pricing) -> list[list[Prediction]]:
        """See ``Method``."""
        from haste_compiler.methods.quantized.prices import price

        return price(gm, sites, pricing, self.MOST_TIME)

    def rewrite(self, gm: fx.GraphModule, config: QuantizedConfig) -> fx.GraphModule:
        """See ``Method``."""
        from haste_compiler.methods.quantized.rewrite import rewrite_quantized

        return rewrite_quantized(gm, config)

    def arithmetic(self, setting: Any) -> str:
        """See ``Method``."""
        from haste_compiler.methods.quantized.algorithm import Algorithm

        return "ternary" if setting is not None and Algorithm.of(setting).ternary else "int8"

    def convolutions(self) -> Mapping[Any, int]:
        """See ``Method``."""
        from haste_compiler.methods.quantized.ops.conv2d import QUANTIZED_CONV2D
        from haste_compiler.methods.quantized.ops.linear import QUANTIZED_LINEAR
        from haste_compiler.methods.quantized.ops.winograd import QUANTIZED_WINOGRAD

        places = {QUANTIZED_CONV2D: 1, QUANTIZED_LINEAR: 1, QUANTIZED_WINOGRAD: 3}
        return {operator.overloadpacket: place for operator, place in places.items()}

    def counted(self) -> Mapping[Any, Callable[..., int]]:
        """See ``Method``."""
        from haste_compiler.methods.products import attention_macs
        from haste_compiler.methods.quantized.ops.attention import QUANTIZED_ATTENTION

        return {QUANTIZED_ATTENTION.overloadpacket: attention_macs}

    def rules(self, machine: Machine) -> Rules:
        """See ``Method``."""
        if machine.KIND != "cpu":
            return {}
        rules: Rules = importlib.import_module("haste_compiler.methods.quantized.cpu.rules").RULES
        return rules

    def read(
        self, record: Record, values: Sequence[float], statistics: Sequence[NDArray[Any]]
    ) -> Mapping[str, LayerStatistics]:
        """See ``Method``: there are no records, for there is nothing to tell of a call."""
        self.check(record)
        return {}

    def check(self, record: Record) -> None:
        """See ``Method``."""
        raise ValueError(f"{self.NAME} leaves no records")

    def ladder(self) -> Sequence[tuple[float, ...]]:
        """See ``Method``: there is nothing to steer."""
        return ((),)

    def searched(self, config: QuantizedConfig) -> QuantizedConfig:
        """See ``Method``: what errors may be the search decides."""
        own = {
            pattern: {name: value for name, value in override.items() if name in _LEFT_TO_USERS}
            for pattern, override in config.layers.items()
        }
        layers = {pattern: override for pattern, override in own.items() if override}
        return config.replace(max_error=None, max_output_error=None, layers=layers)

    def explored(self, config: QuantizedConfig, setting: Any = None) -> QuantizedConfig:
        """See ``Method``."""
        size = config.winograd if setting is None else setting
        return config.replace(enabled=True, cost_model=False, winograd=size)

    def settings(self, timed: bool) -> Sequence[Any]:
        """See ``Method``: the sides of tiles, 0 for none; no multiply-adds are saved."""
        return WINOGRAD_SIZES if timed else ()

    def alike(self, geometry: ConvGeometry, setting: Any) -> Hashable:
        """See ``Method``: the algorithm that computes the layer."""
        from haste_compiler.methods.quantized.sites import algorithms

        return max(algorithms(geometry, QuantizedConfig(winograd=setting)))

    def override(self, values: Sequence[float], setting: Any) -> dict[str, Any]:
        """See ``Method``."""
        return {"enabled": True, "cost_model": False, "max_error": None, "winograd": setting}

    def replayed(
        self, node: fx.Node, values: Mapping[fx.Node, Any], steered: Sequence[float] | None
    ) -> RoundedLayer | None:
        """See ``Method``: attention has no filters, and is run as it is."""
        from haste_compiler.methods.quantized.replayed import replayed
        from haste_compiler.methods.rounded_layer import PLAIN

        return replayed(node, values) if PLAIN in node.meta else None


METHOD = Quantized()
