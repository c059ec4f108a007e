"""A compiled network without a compiler: the eager HASTE modules behind the interface that the validator asks for."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.record import NAME
from haste_compiler.methods.haste.reference.module import HasteConv2d
from haste_compiler.methods.haste.reference.swap import swap_convs
from haste_compiler.methods.haste.statistics import LayerStats
from haste_compiler.methods.layers import ConvLayer


class SmallNet(nn.Module):
    """Three convolutions, two of them wide enough to merge, and a classifier of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.block = nn.Sequential(nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Dropout(0.5))
        self.strided = nn.Conv2d(16, 24, 1, stride=2)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.strided(self.block(self.stem(x))).mean(dim=(2, 3)))


MERGED = ["block.1", "strided"]
ALL_LAYERS = ["stem", "block.1", "strided", "head"]


class StandIn:
    """What ``compile`` would return for ``model``; ``change`` is applied to its outputs."""

    def __init__(
        self, model: nn.Module, config: HasteConfig | None = None, change: Callable[[Any], Any] = lambda y: y
    ) -> None:
        self.model, self.config, self.change = (
            model,
            config or HasteConfig(min_reads=0, tolerance=0.4, flat_tolerance=0.2),
            change,
        )
        self.network = swap_convs(model, self.config).eval()
        self.merged = {name: m for name, m in self.network.named_modules() if isinstance(m, HasteConv2d)}
        self.layers = [ConvLayer(name, name, None, NAME, "wide enough") for name in self.merged]
        self.calls = 0

    def __call__(self, *inputs: Any) -> Any:
        self.calls += 1
        with torch.no_grad():
            return self.change(self.network(*inputs))

    @property
    def dense(self) -> "StandIn":
        return StandIn(self.model, HasteConfig(enabled=False)) if self.config.enabled else self

    def stats(self, *inputs: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def record(name: str, module: HasteConv2d, x: Tensor) -> None:
            result, macs = module.analyse(x)
            geometry = module.geometry(x.shape[2], x.shape[3])
            bound = result.bound.unsqueeze(-1).numpy()
            found[name] = LayerStats(name, geometry, len(x), result.counts.numpy(), bound, macs)

        hooks = [
            module.register_forward_pre_hook(lambda m, args, name=name: record(name, m, args[0]))
            for name, module in self.merged.items()
        ]
        with torch.no_grad():
            self.network(*inputs)
        for hook in hooks:
            hook.remove()
        return found


class Timed(StandIn):
    """One that can be profiled: a second for each of its layers, and half of one for a kernel of no layer."""

    def profile(self, *inputs: Any) -> dict[str, float]:
        return {**{name: 1.0 for name in ALL_LAYERS}, "softmax_kernel": 0.5}

    @property
    def dense(self) -> "Timed":
        return Timed(self.model, HasteConfig(enabled=False))


class Fake:
    """A network of no layers: a function in the place of the compiled network."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.layers: list[ConvLayer] = []

    def __call__(self, *inputs: Any) -> Any:
        return self.function(*inputs)

    @property
    def dense(self) -> "Fake":
        return self

    def stats(self, *inputs: Any) -> dict[str, Any]:
        return {}


class Function(nn.Module):
    """A model that is a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)
