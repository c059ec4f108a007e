"""The cost model of a card: what its arithmetic and its memory allow, from the manufacturer's figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm.target import Target

from haste_compiler.codegen.cuda.kernels.winograd import CardWinograd, winograd_choices
from haste_compiler.codegen.cuda.precision import Precision
from haste_compiler.codegen.cuda.target import generation, processors
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.graph.geometry import ConvGeometry

_TERA = 1e12


LAUNCH_SECONDS = 3e-6


REACHED = 0.6
"""Share of a figure that a good kernel reaches."""


@dataclass(frozen=True)
class CardFigures:
    """A generation's figures: products a second (two operations each) by precision, and bytes a second."""

    products: dict[Precision, float]
    memory: float
    cache: float


_FIGURES = {
    80: CardFigures({"fp32": 9.7 * _TERA, "tf32": 78 * _TERA, "bf16": 156 * _TERA}, 1.5 * _TERA, 4 * _TERA),
    90: CardFigures({"fp32": 33 * _TERA, "tf32": 247 * _TERA, "bf16": 494 * _TERA}, 3.3 * _TERA, 5.5 * _TERA),
}
"""Of the A100 and the H100."""


@dataclass(frozen=True)
class CudaCostModel:
    """Predicts times on a card."""

    figures: CardFigures
    processors: int
    precision: Precision

    @classmethod
    def of(cls, target: Target, precision: Precision) -> CudaCostModel:
        """The model for a CUDA target."""
        return cls(_FIGURES[90 if generation(target) >= 90 else 80], processors(target), precision)

    def dense(self, geometry: ConvGeometry, batch: int, winograd: int = 0) -> float:
        """Seconds of the dense convolution, by Winograd's algorithm with tiles up to ``winograd`` if that is faster."""
        choices = winograd_choices(geometry, batch, winograd) if self.precision == "fp32" else []
        return min([self.product(geometry, batch, 1.0), *map(self._winograd, choices)])

    def _winograd(self, winograd: CardWinograd) -> float:
        geometry = winograd.geometry
        products = winograd.tiles * winograd.positions * geometry.in_channels * geometry.out_channels
        inputs = math.prod(geometry.input_size) * geometry.in_channels
        outputs = math.prod(geometry.output_size) * geometry.out_channels
        traffic = winograd.traffic + FLOAT32.bytes * winograd.batch * (inputs + outputs)
        seconds = products / self.figures.products["fp32"] + traffic / self.figures.memory
        return 3 * LAUNCH_SECONDS + seconds / REACHED

    def product(self, geometry: ConvGeometry, batch: int, kept: float) -> float:
        """Seconds of the convolution as it is written, with a share ``kept`` of its input channels."""
        products = batch * geometry.dense_macs * kept / (REACHED * self.figures.products[self.precision])
        pixels = math.prod(geometry.input_size) * geometry.in_channels * kept
        outputs = math.prod(geometry.output_size) * geometry.out_channels
        filters = geometry.out_channels * geometry.taps * geometry.in_channels / geometry.groups
        traffic = FLOAT32.bytes * (batch * (pixels + outputs) + filters) / (REACHED * self.figures.memory)
        return LAUNCH_SECONDS + max(products, traffic)
