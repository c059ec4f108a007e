"""The pretrained network that the package carries, its images, and the demonstration that compiles it.

`python -m haste_compiler.demo` compiles and validates it, `python -m haste_compiler.demo.train` trains it anew.
"""

from haste_compiler.demo.digits import held_out_digits, training_digits
from haste_compiler.demo.network import DigitsResNet, load_network

__all__ = ["DigitsResNet", "held_out_digits", "load_network", "training_digits"]
