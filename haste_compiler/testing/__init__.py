"""Graph-correctness tests for other projects: the validator in ``pytest``, and what names the faulty layer."""

from typing import TYPE_CHECKING

from haste_compiler.lazy import on_demand

if TYPE_CHECKING:
    from haste_compiler.testing.equivalence import EquivalenceError, assert_equivalent
    from haste_compiler.testing.layers import LayerCheck, check_layers
    from haste_compiler.testing.passes import BrokenPass, find_broken_pass

__all__ = ["BrokenPass", "EquivalenceError", "LayerCheck", "assert_equivalent", "check_layers", "find_broken_pass"]

if not TYPE_CHECKING:
    # The pytest plugin lies in this package, and must not make every test run wait for PyTorch.
    __getattr__ = on_demand(
        __name__,
        {
            "equivalence": ["EquivalenceError", "assert_equivalent"],
            "layers": ["LayerCheck", "check_layers"],
            "passes": ["BrokenPass", "find_broken_pass"],
        },
    )
