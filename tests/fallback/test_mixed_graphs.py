"""Generated graphs in which kernels of ours, translations of TVM's and PyTorch's own operators follow each other."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import haste_compiler
from haste_compiler import HasteConfig
from tests.passes.checking import assert_same

CHANNELS = 6

UNARY: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "conv": lambda m, x: m.conv(x),  # type: ignore[operator]
    "pointwise": lambda m, x: m.pointwise(x),  # type: ignore[operator]
    "relu": lambda m, x: x.relu(),
    "gelu": lambda m, x: F.gelu(x, approximate="tanh"),
    "softmax": lambda m, x: x.softmax(1),
    "pool": lambda m, x: F.max_pool2d(x, 3, 1, 1),
    "norm": lambda m, x: F.group_norm(x, 3),
    "reflect": lambda m, x: F.pad(x, (1, 0, 0, 1), mode="reflect")[..., 1:, :-1],
    "permute": lambda m, x: x.permute(0, 2, 3, 1).flip(-1).permute(0, 3, 1, 2),
    "sort": lambda m, x: x.sort(1)[0],
    "cumsum": lambda m, x: x.cumsum(2) / 8,
    "roll": lambda m, x: x.roll((1, -2), (2, 3)),
    "parts": lambda m, x: torch.cat(x.unbind(1)[::-1], 1).view(x.shape),
    "top": lambda m, x: x.topk(CHANNELS, 1, sorted=True)[0],
    "centred": lambda m, x: x - x.mean(dim=(1, 3), keepdim=True),
    "spread": lambda m, x: x / (x.std((2, 3), keepdim=True) + 1),
    "where": lambda m, x: torch.where(x > x.amax(1, keepdim=True) * 0.5, x, -x),
    "scalar": lambda m, x: x * x.abs().amax().clamp(0.1, 1),
}
"""What keeps a tensor's shape, by name."""

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b.sigmoid(),
    "maximum": torch.maximum,
    "cat": lambda a, b: torch.cat((a, b), 1)[:, CHANNELS // 2 : -(CHANNELS // 2)],
    "product": lambda a, b: (a @ b.transpose(2, 3)).softmax(-1) @ a,
}
"""The same, of two tensors."""

Step = tuple[str, int, int]
"""Name of an operation, and how many tensors before the last one its operands are."""

STEPS = st.lists(
    st.tuples(st.sampled_from([*UNARY, *BINARY]), st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=9
)


class Graph(nn.Module):
    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps
        self.conv, self.pointwise = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Any:
        made = [x]
        for name, first, second in self.steps:
            a, b = (made[max(0, len(made) - 1 - back)] for back in (first, second))
            made.append(BINARY[name](a, b) if name in BINARY else UNARY[name](self, a))
        return made[-1], made[len(made) // 2]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(STEPS, st.booleans())
def test_mixed_graphs(steps: list[Step], dynamic: bool) -> None:
    torch.manual_seed(0)
    model, x = Graph(steps).eval(), torch.randn(3, CHANNELS, 7, 9)
    dense = HasteConfig(enabled=False)
    made = haste_compiler.compile(model, (x,), config=dense, threads=1, cache=False, dynamic=dynamic)
    assert_same(made(x), model(x), 1e-4)
    if dynamic:
        assert_same(made(x[:1]), model(x[:1]), 1e-4)
