"""Attention of integers in a compiled network: chosen by time and error, left alone where it is told to be."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import haste_compiler
from haste_compiler import QuantizedConfig
from haste_compiler.methods.quantized.ops.attention import QUANTIZED_ATTENTION

TOKENS = torch.randn(2, 200, 64, generator=torch.Generator().manual_seed(1))


class Attending(nn.Module):
    """Attention between linear layers, with a mask and without one."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
        self.register_buffer("mask", torch.rand(200, 200, generator=torch.Generator().manual_seed(2)) > 0.3)
        self.causal = False

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.into(x).unflatten(-1, (3, 2, 32)).permute(2, 0, 3, 1, 4)
        mask = None if self.causal else self.mask
        y = F.scaled_dot_product_attention(query, key, value, mask, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.fixture(scope="module")
def model() -> Attending:
    torch.manual_seed(0)
    return Attending().eval()


def is_taken(compiled: haste_compiler.CompiledModule) -> bool:
    return any("attention" in each.name and each.method == "quantized" for each in compiled.explain().layers)


@pytest.mark.parametrize("causal", [False, True])
def test_it_computes_what_its_operator_does(model: Attending, causal: bool) -> None:
    model.causal = causal
    config = QuantizedConfig(
        cost_model=False, max_error=None, layers={"into": {"enabled": False}, "out": {"enabled": False}}
    )
    compiled = haste_compiler.compile(model, (TOKENS,), config=config)
    error = (compiled(TOKENS) - model(TOKENS)).norm() / model(TOKENS).norm()
    assert is_taken(compiled) and 1e-4 < error < 0.03
    alone = haste_compiler.compile(model, (TOKENS[:1],), config=config)
    assert torch.equal(alone(TOKENS[:1]), compiled(TOKENS)[:1])


def test_error_and_configuration_decide(model: Attending) -> None:
    model.causal = False
    taken = {}
    for name, config in {
        "default": QuantizedConfig(cost_model=False),
        "closer": QuantizedConfig(max_error=1e-4),
        "off": QuantizedConfig(cost_model=False, enabled=False),
    }.items():
        taken[name] = is_taken(haste_compiler.compile(model, (TOKENS,), config=config))
    assert taken == {"default": True, "closer": False, "off": False}


def test_it_is_well_formed() -> None:
    query, key, value = (torch.randn(2, 3, size, 8) for size in (5, 7, 7))
    torch.library.opcheck(QUANTIZED_ATTENTION, (query, key, value, torch.randn(2, 1, 1, 7), 0.3, True))
    torch.library.opcheck(QUANTIZED_ATTENTION, (query, key, value, None, 0.3, False))
