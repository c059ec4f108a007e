"""The networks that the training script knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from haste_compiler.errors import ConfigError, HasteError, first_line


class DigitsNet(nn.Module):
    """A 3×3 convolution, then pairs of a depthwise 3×3 and a 1×1 one (Howard et al., arXiv 1704.04861).

    Args:
        channels: of the images.
        classes: K.
        width: what channels are multiplied by.
    """

    def __init__(self, channels: int, classes: int, width: float = 1.0) -> None:
        super().__init__()
        wide, wider = (max(8, round(size * width)) for size in (32, 64))
        self.features = nn.Sequential(
            _block(channels, wide, 3, 2),
            _block(wide, wide, 3, 1, groups=wide),
            _block(wide, wider, 1),
            _block(wider, wider, 3, 2, groups=wider),
            _block(wider, wider, 1),
            _block(wider, wider, 3, 1, groups=wider),
            _block(wider, wider, 1),
        )
        self.classifier = nn.Linear(wider, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, H, W) to class scores (N, classes)."""
        features: Tensor = self.features(x)
        scores: Tensor = self.classifier(features.mean((2, 3)))
        return scores


def _block(channels: int, filters: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, filters, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(filters), nn.ReLU6())


def _mobilenet_v2(channels: int, classes: int, width: float) -> nn.Module:
    """Torchvision's, whose first convolution keeps the size of small images."""
    try:
        from torchvision.models import mobilenet_v2
    except ModuleNotFoundError as error:
        raise HasteError(f"mobilenet_v2 needs {error.name}: `pip install torchvision`") from None
    except RuntimeError as error:
        raise HasteError(f"mobilenet_v2 needs a torchvision that fits PyTorch: {first_line(error)}") from None
    if channels != 3:
        raise ConfigError(f"mobilenet_v2 takes images of 3 channels, not {channels}")
    network: Any = mobilenet_v2(num_classes=classes, width_mult=width, dropout=0.0)
    network.features[0][0].stride = (1, 1)
    return network


NETWORKS: dict[str, Callable[[int, int, float], nn.Module]] = {"mobilenet_v2": _mobilenet_v2, "digits": DigitsNet}
"""Made, with random weights, from the images' channels, the classes and a width."""
