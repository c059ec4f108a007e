"""What runs a compiled network."""

from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.runtime.stats import LayerStats

__all__ = ["CompiledModule", "LayerStats"]
