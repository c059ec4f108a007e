"""A small residual network for 32 × 32 digits, and its carried weights."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = Path(__file__).with_name("digits.safetensors")


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions with batch norms, and a shortcut around them (He et al., 2015, figure 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class DigitsResNet(nn.Module):
    """A residual network, 64 and 128 channels wide, that tells ten digits apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.blocks = nn.Sequential(BasicBlock(64, 64), BasicBlock(64, 128, stride=2), BasicBlock(128, 128))
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, 32, 32) to class scores (N, 10)."""
        features: Tensor = self.blocks(self.stem(x))
        scores: Tensor = self.head(features.mean(dim=(2, 3)))
        return scores


def load_network(path: str | Path = WEIGHTS) -> DigitsResNet:
    """Return the trained network in eval mode, float32, with the weights stored at `path`."""
    network = DigitsResNet()
    state = {name: value.float() for name, value in load_file(path).items()}
    # Counters of batches seen are of no use at inference and are not stored.
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"{path} is not the digits network: lacks {missing}, has {unexpected}")
    return network.eval()


def save_network(network: nn.Module, path: str | Path = WEIGHTS) -> None:
    """Write the network's weights to `path`, rounded to float16, half the size in memory."""
    state = {
        name: value.to(torch.float16).contiguous()
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(state, path)
