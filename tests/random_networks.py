"""Random small networks of what CNNs are made of, as their authors write it: modules and functional calls, mixed."""

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FunctionalConv(nn.Module):
    """A convolution that no ``nn.Conv2d`` stands behind."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.sizes: Any = (conv.stride, conv.padding, conv.dilation, conv.groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, *self.sizes)


class SqueezeExcite(nn.Module):
    """Channels scaled by what a convolution makes of their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()


class ChannelsLast(nn.Module):
    """Layer norm and a linear layer over the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.linear(self.norm(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)


class Bottleneck(nn.Module):
    """What a zoo's network repeats: convolutions, batch norms, an addition, activations in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        y += x
        return F.relu_(y)


ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.ELU, nn.LeakyReLU,
    nn.Mish, nn.Dropout, nn.Identity,
)  # fmt: skip

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": lambda a, b: a - 0.5 * b,
    "mul": lambda a, b: a * b.sigmoid(),
    "in_place": lambda a, b: F.relu((a * 1.5).add_(b), inplace=True),
    "cat": lambda *values: torch.cat(values, 1),
    "shift": lambda a: 1 - a,
    "slice": lambda a: a[:, : (a.shape[1] + 1) // 2],
    "swap": lambda a: torch.cat(a.chunk(2, 1)[::-1], 1),
    "shuffle": lambda a: a.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2),
    "pad": lambda a: F.pad(a, (0, 1, 1, 0)),
    "max_pool": lambda a: F.max_pool2d(a, 3, 2, 1, ceil_mode=True),
    "avg_pool": lambda a: F.avg_pool2d(a, 2),
    "enlarge": lambda a: F.interpolate(a, scale_factor=2.0),
    "softmax": lambda a: a.softmax(1),
}


class RandomNetwork(nn.Module):
    """Steps over a growing list of values; the last one pooled and classified, and one from the middle, are returned.

    Args:
        seed: of the plan; the weights come from PyTorch's generator.
        steps: how many.
        channels, size: of the images.
        width: most channels of a convolution.
        one_shape: only steps that keep the shape, so that any two values can be added.
    """

    def __init__(
        self, seed: int, steps: int, channels: int = 3, size: int = 18, width: int = 32, one_shape: bool = False
    ) -> None:
        super().__init__()
        self._choose, self._width, self._one_shape = random.Random(seed), width, one_shape
        self.layers = nn.ModuleDict()
        self.plan: list[tuple[str, tuple[int, ...]]] = []
        values = [torch.zeros(2, channels, size, size)]
        kinds = ["conv"] * 6 + ["again", "functional_conv", "norm", "norm", "act", "act", "act", "bottleneck"]
        kinds += ["squeeze", "channels_last", "add", "add", "cat", *FUNCTIONS]
        with torch.no_grad():
            while len(self.plan) < steps:
                step = self._step(self._choose.choice(kinds), values)
                if step is not None:
                    self.plan.append(step)
                    values.append(self._run(step, values).detach())
        self.head = nn.Linear(values[-1].shape[1], 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values = [x]
        for step in self.plan:
            values.append(self._run(step, values))
        return self.head(F.adaptive_avg_pool2d(values[-1], 1).flatten(1)), values[(len(values) + 1) // 2]

    def extra_repr(self) -> str:
        return "\n".join(f"{index}: {name} of {sources}" for index, (name, sources) in enumerate(self.plan, 1))

    def _run(self, step: tuple[str, tuple[int, ...]], values: list[Tensor]) -> Tensor:
        name, sources = step
        operator = FUNCTIONS[name] if name in FUNCTIONS else self.layers[name]
        return operator(*(values[source] for source in sources))

    def _step(self, kind: str, values: list[Tensor]) -> tuple[str, tuple[int, ...]] | None:
        """The name of an operator and the values that it reads; None where there are none that it could."""
        choose = self._choose
        first = choose.randrange(max(0, len(values) - 3), len(values))
        x = values[first]
        channels, side = x.shape[1], min(x.shape[2:])
        alike = [i for i, value in enumerate(values) if value.shape == x.shape]
        if kind in ("add", "sub", "mul", "in_place"):
            return kind, (first, choose.choice(alike))
        if kind == "cat":
            beside = [i for i, value in enumerate(values) if value.shape[2:] == x.shape[2:]]
            sources = [first, *choose.choices(beside, k=choose.choice((1, 1, 2)))]
            fits = sum(values[source].shape[1] for source in sources) <= 2 * self._width
            return ("cat", tuple(sources)) if fits and not self._one_shape else None
        if kind in ("slice", "pad", "max_pool", "avg_pool", "enlarge") and self._one_shape:
            return None
        if (kind in ("max_pool", "avg_pool") and side < 4) or (kind == "enlarge" and side > 12):
            return None
        if kind in ("swap", "shuffle") and channels % 2:
            return None
        if kind in FUNCTIONS:
            return kind, (first,)
        if kind == "again":
            able = [
                (name, i)
                for name, layer in self.layers.items()
                for i, value in enumerate(values)
                if isinstance(layer, nn.Conv2d) and layer.in_channels == value.shape[1] and min(value.shape[2:]) > 6
            ]
            if not able:
                return None
            name, first = choose.choice(able)
            return name, (first,)
        name = f"{kind}{len(self.layers)}"
        self.layers[name] = self._layer(kind, channels, side)
        return name, (first,)

    def _layer(self, kind: str, channels: int, side: int) -> nn.Module:
        choose = self._choose
        if kind == "norm":
            return nn.BatchNorm2d(channels, affine=choose.random() < 0.7)
        if kind == "act":
            return choose.choice(ACTIVATIONS)()
        if kind in ("squeeze", "channels_last", "bottleneck"):
            made: dict[str, Callable[[int], nn.Module]] = {"squeeze": SqueezeExcite, "channels_last": ChannelsLast}
            return made.get(kind, Bottleneck)(channels)
        conv = self._conv(channels, side)
        return FunctionalConv(conv) if kind == "functional_conv" else conv

    def _conv(self, channels: int, side: int) -> nn.Conv2d:
        choose = self._choose
        filters = channels if self._one_shape else choose.choice((8, 12, 16, 24, 32, channels))
        filters = min(filters, self._width)
        groups = choose.choice([n for n in (1, 1, 1, 2, 3, 4, channels) if channels % n == 0 == filters % n])
        kernel: Any = choose.choice((1, 3, 3, 3, 3, 5, 2, (1, 5), (3, 1)))
        dilation = choose.choice((1, 1, 1, 2))
        stride = 1 if self._one_shape or side < 6 else choose.choice((1, 1, 1, 2))
        reach = max(kernel if isinstance(kernel, tuple) else (kernel, kernel))
        padding: Any = "same" if stride == 1 else choose.choice((0, 1)) if side > 2 * reach * dilation else reach // 2
        if stride == 1 and not self._one_shape and side > 2 * reach * dilation:
            padding = choose.choice(("same", "same", 0, 1, (2, 0)))
        if stride == 2 and padding == reach // 2:
            padding *= dilation
        bias = choose.random() < 0.5
        return nn.Conv2d(channels, filters, kernel, stride, padding, dilation, groups, bias)
