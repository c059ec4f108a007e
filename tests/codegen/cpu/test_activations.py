"""Activations alone, over every kind of number, against PyTorch."""

import pytest
import torch

from haste_compiler.codegen.cpu.kernels.elementwise import activation_kernel
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import parse_target
from haste_compiler.ops.activation import apply_activation
from tests.codegen.kernels import run_kernel, targets
from tests.codegen.strategies import ACTIVATIONS

SPECIAL = [0.0, -0.0, 1e-45, -1e-38, 3.0, -3.0, 6.0, 88.0, -88.0, 89.0, -104.0, 1e4, -1e4, 3e38, -3e38]
BROKEN = [torch.nan, torch.inf, -torch.inf]


@pytest.mark.parametrize("target", targets())
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(activation: str, target: str) -> None:
    x = torch.cat([torch.linspace(-12, 12, 1999), torch.tensor([*SPECIAL, *BROKEN]), torch.logspace(-7, 1, 97)])
    x = x.view(3, -1) if x.numel() % 3 == 0 else x
    kernel = activation_kernel("f", tuple(x.shape), activation, vector_unit(parse_target(target)).lanes)
    y = run_kernel(kernel, target, x.shape, x)
    expected = apply_activation(x.double(), activation)
    torch.testing.assert_close(y.isnan(), expected.isnan())
    torch.testing.assert_close(y, expected.float(), rtol=2e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("size", [1, 7, 16, (1 << 14) - 1, 1 << 14, (1 << 15) + 3])
def test_every_element_is_computed_once(size: int) -> None:
    x = torch.randn(size)
    y = run_kernel(activation_kernel("f", (size,), "relu", 16), "llvm", (size,), x)
    torch.testing.assert_close(y, x.relu(), rtol=0, atol=0)
