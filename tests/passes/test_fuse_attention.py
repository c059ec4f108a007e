"""Attention that isn't found is computed in pieces; something else that is taken for it comes out wrong."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import haste_compiler
from tests.passes.checking import Fn, calls, check_passes

Attend = Callable[["Attention", Tensor, Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """Tokens (windows, 9, 24) to tokens, by three heads."""

    def __init__(self, attend: Attend, windows: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out, self.attend, self.windows = nn.Linear(24, 72), nn.Linear(24, 24), attend, windows
        self.register_buffer("bias", torch.randn(1, 3, 9, 9))
        shifted = torch.where(torch.rand(windows, 9, 9) < 0.3, -100.0, 0.0)
        self.register_buffer("shifted", shifted)
        self.register_buffer("later", torch.full((9, 9), -torch.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], 9, 3, 3, 8).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(self.attend(self, q, k, v).transpose(1, 2).reshape(x.shape))


def plain(model: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) / math.sqrt(8)).softmax(-1) @ v


def scaled_before(model: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q * 0.3) @ k.transpose(-2, -1)).softmax(-1) @ v


def scaled_by_roots(model: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As PyTorch's exporter to ONNX writes it."""
    return ((q * 0.6) @ (k.transpose(-2, -1) * 0.6)).softmax(-1) @ v


def biased(model: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (0.3 * (q @ k.transpose(-2, -1)) + model.get_buffer("bias")).softmax(-1) @ v


def scaled_by_constants(model: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As networks in ONNX files write numbers."""
    return (torch.tensor(0.5) * (q @ (k.transpose(-2, -1) / torch.tensor([2.0])))).softmax(-1) @ v


def scaled_by_more_axes(model: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The number brings an axis of its own."""
    return ((q * torch.full((1, 1, 1, 1, 1), 0.5))[0] @ k.transpose(-2, -1)).softmax(-1) @ v


def key_of_reversed_sign(model: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ (k * -0.5).transpose(-2, -1)).softmax(-1) @ v


def causal(model: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.transpose(-2, -1) + model.get_buffer("later")) * 0.5).softmax(dim=-1) @ v


def windowed(model: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As a Swin transformer's shifted windows."""
    scores = (q * 0.3) @ k.transpose(-2, -1) + model.get_buffer("bias")
    batch = q.shape[0] // model.windows
    masked = scores.view(batch, model.windows, 3, 9, 9) + model.get_buffer("shifted")[:, None]
    return masked.view(-1, 3, 9, 9).softmax(-1) @ v


def stacked(model: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """By bmm of heads and windows in one axis."""
    q, k, v = (each.reshape(-1, 9, 8) for each in (q, k, v))
    return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v).reshape(-1, 3, 9, 8)


def operator(model: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=model.get_buffer("bias"), scale=0.2)


def nobody(model: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A row that no key is left for: NaN, and zeros by the operator."""
    mask = torch.zeros(9, 9)
    mask[2] = -torch.inf
    return ((q @ k.transpose(-2, -1)) + mask).softmax(-1) @ v


def along_queries(model: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)).softmax(-2) @ v


def read_twice(model: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    shares = (q @ k.transpose(-2, -1)).softmax(-1)
    return shares @ v + shares.sum()


def reversed_sign(model: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) * -0.5).softmax(-1) @ v


FOUND = (
    plain,
    scaled_before,
    scaled_by_roots,
    scaled_by_constants,
    scaled_by_more_axes,
    biased,
    causal,
    windowed,
    stacked,
    operator,
)
OTHERS = (nobody, along_queries, read_twice, reversed_sign, key_of_reversed_sign)


@pytest.mark.parametrize("attend", FOUND + OTHERS)
def test_it_is_found_and_the_values_stay(attend: Attend) -> None:
    """One operator for each spelling that is attention and nothing else; the graphs compute the same."""
    gm = check_passes(Attention(attend), torch.randn(8, 9, 24))
    assert calls(gm)["aten.scaled_dot_product_attention"] == (attend in FOUND)


@pytest.mark.parametrize("attend", [scaled_by_roots, biased, windowed, operator, nobody])
def test_it_is_compiled_without_a_copy(attend: Attend) -> None:
    """From the linear layer before to the one after, a kernel of attention is all that runs."""
    model, x = Attention(attend).eval(), torch.randn(8, 9, 24)
    compiled = haste_compiler.compile(model, (x,))
    torch.testing.assert_close(compiled(x), model(x), equal_nan=True, atol=1e-5, rtol=1e-5)
    if attend in FOUND:
        assert len(compiled.profile(x)) == 3


@pytest.mark.parametrize("attend", [biased, windowed])
def test_a_batch_that_varies(attend: Attend) -> None:
    """Windows, whose number is a multiple of the batch."""
    model = Fn(lambda self, x: self.attention(x.flatten(0, 1)), attention=Attention(attend)).eval()
    compiled = haste_compiler.compile(model, (torch.randn(2, 4, 9, 24),), dynamic=True)
    for batch in (1, 3):
        x = torch.randn(batch, 4, 9, 24)
        torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-5)
