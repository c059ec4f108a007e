"""What runs a compiled network."""

from typing import TYPE_CHECKING

from haste_compiler.lazy import on_demand

if TYPE_CHECKING:
    from haste_compiler.runtime.compiled import CompiledModule
    from haste_compiler.runtime.stats import LayerStats

__all__ = ["CompiledModule", "LayerStats"]

if not TYPE_CHECKING:
    # Loading a saved network needs no PyTorch, CompiledModule does.
    __getattr__ = on_demand(
        __name__,
        {"compiled": ["CompiledModule"], "stats": ["LayerStats"]},
    )
