"""``torch.compile(model, backend="haste")``: PyTorch finds it through the package's entry point."""

from haste_compiler.dynamo.backend import haste

__all__ = ["haste"]
