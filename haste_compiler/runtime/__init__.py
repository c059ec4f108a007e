"""What runs a compiled network."""

from typing import TYPE_CHECKING

from haste_compiler.lazy import on_demand

if TYPE_CHECKING:
    from haste_compiler.methods.haste.statistics import LayerStats
    from haste_compiler.runtime.compiled import CompiledModule

__all__ = ["CompiledModule", "LayerStats"]

if not TYPE_CHECKING:
    # Loading a saved network needs no PyTorch, CompiledModule does.
    __getattr__ = on_demand(
        __name__,
        {"runtime.compiled": ["CompiledModule"], "methods.haste.statistics": ["LayerStats"]},
        root="haste_compiler",
    )
