"""``torch.compile(model, backend="haste")``: PyTorch finds it through the package's entry point."""

from typing import TYPE_CHECKING

from haste_compiler.lazy import on_demand

if TYPE_CHECKING:
    from haste_compiler.dynamo.backend import haste

__all__ = ["haste"]

if not TYPE_CHECKING:
    __getattr__ = on_demand(__name__, {"backend": ["haste"]})
