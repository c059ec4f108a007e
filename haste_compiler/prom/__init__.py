"""Training for the integers that a network is compiled to: ternary pointwise convolutions, 8 bits elsewhere (PROM).

`python -m haste_compiler.prom.train` trains one.
"""

from haste_compiler.prom.config import PromConfig
from haste_compiler.prom.distillation import distillation_loss
from haste_compiler.prom.prepare import convert, prepare, quantized_layers

__all__ = ["PromConfig", "convert", "distillation_loss", "prepare", "quantized_layers"]
