"""Small networks that `backend="haste"` is tried on, and how it is called."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from haste_compiler import HasteConfig

#: Options under which every convolution that can be is a HASTE convolution, and nothing is lost by it.
EXACT: dict[str, Any] = {name: getattr(HasteConfig.exact(), name) for name in ("tolerance", "skip", "min_reads")}
EXACT["cost_model"] = False

#: All convolutions as dense kernels, whatever Inductor would take.
DENSE: dict[str, Any] = {"enabled": False, "cost_model": False}


class Residual(nn.Module):
    """Convolutions, batch norms, a residual sum, pooling, a classifier: all of it is ours."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.fc = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        x = F.relu(self.conv(x) + x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Attention(nn.Module):
    """Attention, and a sort, which is Inductor's, between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, stride=2), nn.Conv2d(16, 8, 3)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.first(x))
        tokens = x.flatten(2).transpose(1, 2)
        tokens, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.last(x + tokens.sort(1).values.transpose(1, 2).reshape(x.shape))


class GraphBreak(nn.Module):
    """A break in the middle, and a branch that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.positive, self.negative = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        torch._dynamo.graph_break()
        return self.positive(x) if x.mean() > 0.5 else self.negative(x)


class Detector(nn.Module):
    """Two inputs and a dictionary of outputs at two scales, as detection heads have."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.lateral, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 6, 3, padding=1)

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Any]:
        low = F.relu(self.low(x * scale))
        high = F.relu(self.high(low))
        merged = self.lateral(low) + F.interpolate(high, size=low.shape[-2:], mode="nearest")
        boxes, scores = self.head(merged).split([4, 2], 1)
        return {"boxes": boxes, "scores": scores.sigmoid(), "features": [merged, high], "size": x.shape[-1]}


def made(kind: type[nn.Module]) -> Any:
    """A network in evaluation mode, the same weights at every call, batch norms that do something."""
    torch.manual_seed(0)
    model: nn.Module = kind()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        assert norm.running_mean is not None and norm.running_var is not None
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return model.eval()


def compiled(model: Any, options: dict[str, Any] | None = None, **arguments: Any) -> Any:
    """`torch.compile` with our backend, nothing left over from another test."""
    torch._dynamo.reset()
    return torch.compile(model, backend="haste", options=options, **arguments)


def assert_close(actual: Any, expected: Any, limit: float = 1e-4) -> None:
    """Every tensor of two structures within `limit`, a share of the norm; other leaves equal."""
    for y, wanted in zip(*map(torch.utils._pytree.tree_leaves, (actual, expected)), strict=True):
        if isinstance(wanted, Tensor):
            assert y.shape == wanted.shape and y.dtype == wanted.dtype
            assert float((y - wanted).norm()) <= limit * float(wanted.norm()) + 1e-6
        else:
            assert y == wanted
