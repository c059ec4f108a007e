"""Random small networks of convolutions, norms, activations and additions: every pass keeps the result."""

import random

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from haste_compiler.config import HasteConfig
from tests.passes.checking import check_passes, settled


class RandomChain(nn.Module):
    """Steps over a list of tensors of one shape, each adding one; the last, and the sum of some, are returned."""

    def __init__(self, seed: int, steps: int, channels: int) -> None:
        super().__init__()
        choose = random.Random(seed)
        self.layers = nn.ModuleDict()
        self.plan: list[tuple[str, int, int]] = []
        for index in range(steps):
            kind = choose.choice(["conv", "conv", "conv", "norm", "act", "act", "add", "scale", "in_place", "reuse"])
            first, second = choose.randrange(max(0, index - 1), index + 1), choose.randrange(index + 1)
            self.plan.append((kind, first, second))
            if kind == "conv":
                kernel, groups = choose.choice([1, 2, 3]), choose.choice([1, 2, channels])
                self.layers[str(index)] = nn.Conv2d(
                    channels, channels, kernel, padding="same", groups=groups, bias=choose.random() < 0.5
                )
            elif kind == "norm":
                self.layers[str(index)] = nn.BatchNorm2d(channels, affine=choose.random() < 0.7)
            elif kind == "act":
                self.layers[str(index)] = choose.choice(
                    [nn.ReLU(), nn.ReLU6(), nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.Sigmoid(), nn.Dropout(), nn.ELU()]
                )
        self.scale = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values = [x]
        for index, (kind, first, second) in enumerate(self.plan):
            a, b = values[first], values[second]
            if kind == "add":
                value = a + b
            elif kind == "scale":
                value = a * self.scale + 1
            elif kind == "in_place":
                value = F.relu((a * 1.5).add_(b), inplace=True)
            elif kind == "reuse":
                done = [name for name in self.layers if int(name) < index]
                value = self.layers[done[-1]](a) if done else a - 1
            else:
                value = self.layers[str(index)](a)
            values.append(value)
        return values[-1], values[len(values) // 2]


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 9), merged=st.booleans())
def test_every_pass_keeps_the_result(seed: int, steps: int, merged: bool) -> None:
    torch.manual_seed(seed)
    model = settled(RandomChain(seed, steps, channels=4))
    config = HasteConfig.exact().replace(min_channels=2, patch_size=3) if merged else None
    check_passes(model, torch.randn(2, 4, 5, 6), config=config, tolerance=1e-4)
