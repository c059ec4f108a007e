"""Networks as people have them beside classifiers: encoder-decoders, generators, detectors; random weights.

What torchvision, timm or a checkout's shared folder bring is loaded from there, and skipped where they are absent.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests import zoo


def _block(channels: int, filters: int) -> nn.Sequential:
    """Two convolutions with batch norm, as U-Nets have them."""
    layers: list[nn.Module] = []
    for source in (channels, filters):
        layers += [nn.Conv2d(source, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """A U-Net (arXiv 1505.04597) of four levels; it grows maps by transposed convolutions or bilinearly."""

    def __init__(self, base: int = 32, bilinear: bool = False) -> None:
        super().__init__()
        sizes = [base << level for level in range(5)]
        self.down = nn.ModuleList([_block(3, base)])
        self.down.extend(_block(a, b) for a, b in itertools.pairwise(sizes))
        self.grow, self.up = nn.ModuleList(), nn.ModuleList()
        for wide, narrow in zip(sizes[:0:-1], sizes[-2::-1], strict=True):
            transposed = nn.ConvTranspose2d(wide, narrow, 2, stride=2)
            resized = nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.Conv2d(wide, narrow, 1)
            )
            self.grow.append(resized if bilinear else transposed)
            self.up.append(_block(2 * narrow, narrow))
        self.last = nn.Conv2d(base, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            kept.append(x)
        kept.pop()
        for grow, block in zip(self.grow, self.up, strict=True):
            x = block(torch.cat((kept.pop(), grow(x)), 1))
        return self.last(x)


class Dcgan(nn.Sequential):
    """The generator of a DCGAN (arXiv 1511.06434): noise (N, 100, 1, 1) to images of 64 × 64."""

    def __init__(self, base: int = 64) -> None:
        layers: list[nn.Module] = []
        for index, (channels, filters) in enumerate([(100, 8), (8, 4), (4, 2), (2, 1)]):
            channels *= base if index else 1
            stride, padding = (2, 1) if index else (1, 0)
            layers += [nn.ConvTranspose2d(channels, filters * base, 4, stride, padding, bias=False)]
            layers += [nn.BatchNorm2d(filters * base), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.ConvTranspose2d(base, 3, 4, 2, 1, bias=False), nn.Tanh())


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for last in (False, True):
            layers += [
                nn.ReflectionPad2d(1),
                nn.Conv2d(channels, channels, 3),
                nn.InstanceNorm2d(channels, affine=True),
            ]
            layers += [] if last else [nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class StyleTransfer(nn.Sequential):
    """Johnson's network for fast style transfer (arXiv 1603.08155) with instance norms, as in PyTorch's examples."""

    def __init__(self, base: int = 32, transposed: bool = True) -> None:
        layers: list[nn.Module] = []
        for channels, filters, size, stride in ((3, base, 9, 1), (base, 2 * base, 3, 2), (2 * base, 4 * base, 3, 2)):
            layers += [nn.ReflectionPad2d(size // 2), nn.Conv2d(channels, filters, size, stride)]
            layers += [nn.InstanceNorm2d(filters, affine=True), nn.ReLU()]
        layers += [_Residual(4 * base) for _ in range(5)]
        for channels, filters in ((4 * base, 2 * base), (2 * base, base)):
            if transposed:
                layers += [nn.ConvTranspose2d(channels, filters, 3, 2, 1, output_padding=1)]
            else:
                layers += [nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.Conv2d(channels, filters, 3)]
            layers += [nn.InstanceNorm2d(filters, affine=True), nn.ReLU()]
        super().__init__(*layers, nn.ReflectionPad2d(4), nn.Conv2d(base, 3, 9))


class DnCnn(nn.Module):
    """A denoiser (arXiv 1608.03981): 17 convolutions at the image's size."""

    def __init__(self, depth: int = 17, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.layers(x)


class _Conv(nn.Sequential):
    """A convolution, a batch norm and SiLU, as YOLO's authors write it."""

    def __init__(self, channels: int, filters: int, size: int = 1, stride: int = 1) -> None:
        conv = nn.Conv2d(channels, filters, size, stride, size // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(filters), nn.SiLU(inplace=True))


class _C3(nn.Module):
    def __init__(self, channels: int, filters: int, repeats: int = 1) -> None:
        super().__init__()
        half = filters // 2
        self.left, self.right, self.join = _Conv(channels, half), _Conv(channels, half), _Conv(filters, filters)
        self.inner = nn.Sequential(*(nn.Sequential(_Conv(half, half), _Conv(half, half, 3)) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.left(x)
        for block in self.inner:
            y = y + block(y)
        return self.join(torch.cat((y, self.right(x)), 1))


class Detector(nn.Module):
    """A detector built like YOLOv5n: three scales, pooling pyramid, nearest resizing, decoded boxes (N, boxes, 85)."""

    def __init__(self, base: int = 16, outputs: int = 85) -> None:
        super().__init__()
        sizes = [base << level for level in range(5)]
        self.stem = _Conv(3, base, 6 if base > 64 else 3, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(_Conv(a, b, 3, 2), _C3(b, b, repeats))
            for a, b, repeats in zip(sizes, sizes[1:], (1, 2, 3, 1), strict=False)
        )
        self.before, self.after = _Conv(sizes[4], sizes[3]), _Conv(4 * sizes[3], sizes[4])
        self.reduce = nn.ModuleList([_Conv(sizes[4], sizes[3]), _Conv(sizes[3], sizes[2])])
        self.top = nn.ModuleList([_C3(sizes[4], sizes[3]), _C3(sizes[3], sizes[2])])
        self.narrow = nn.ModuleList([_Conv(sizes[2], sizes[2], 3, 2), _Conv(sizes[3], sizes[3], 3, 2)])
        self.bottom = nn.ModuleList([_C3(sizes[3], sizes[3]), _C3(sizes[4], sizes[4])])
        self.heads = nn.ModuleList(nn.Conv2d(sizes[level], 3 * outputs, 1) for level in (2, 3, 4))
        self.register_buffer("anchors", torch.rand(3, 3, 2) * 100 + 10)
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        x = self.before(x)
        pooled = [x]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], 5, 1, 2))
        x, kept = self.after(torch.cat(pooled, 1)), []
        for reduce, top, other in zip(self.reduce, self.top, (maps[2], maps[1]), strict=True):
            x = reduce(x)
            kept.append(x)
            x = top(torch.cat((F.interpolate(x, scale_factor=2.0, mode="nearest"), other), 1))
        scales = [x]
        for narrow, bottom, other in zip(self.narrow, self.bottom, kept[::-1], strict=True):
            x = bottom(torch.cat((narrow(x), other), 1))
            scales.append(x)
        return torch.cat([self._decoded(level, x) for level, x in enumerate(scales)], 1)

    def _decoded(self, level: int, x: Tensor) -> Tensor:
        x = self.heads[level](x)
        n, _, h, w = x.shape
        y = x.view(n, 3, self.outputs, h, w).permute(0, 1, 3, 4, 2).sigmoid()
        grid = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"), 2).float()
        anchors = self.get_buffer("anchors")[level].view(3, 1, 1, 2)
        centre, size = (y[..., :2] * 2 - 0.5 + grid) * (8 << level), (y[..., 2:4] * 2) ** 2 * anchors
        return torch.cat((centre, size, y[..., 4:]), 4).reshape(n, -1, self.outputs)


class AbsentError(Exception):
    """What a network comes from is not on this machine; the message says what."""


class _Out(nn.Module):
    """A segmentation network's map, out of the dictionary that it returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)["out"]


def _need_torchvision() -> None:
    if reason := zoo.missing_torchvision():
        raise AbsentError(reason)


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def load() -> nn.Module:
        _need_torchvision()
        from torchvision.models import segmentation

        return _Out(getattr(segmentation, name)(weights=None, weights_backbone=None))

    return load


def _timm(name: str) -> Callable[[], nn.Module]:
    def load() -> nn.Module:
        _need_torchvision()
        if importlib.util.find_spec("timm") is None:
            raise AbsentError("timm is not installed")
        import timm

        return timm.create_model(name, pretrained=False)

    return load


@functools.cache
def real_networks() -> ModuleType:
    """Module with `load(name)`, `imagenet_photos()` and `prepare(name, images)`.

    Raises:
        AbsentError: it is not there.
    """
    folder = zoo.shared_folder()
    path = folder / "models" / "real_networks.py" if folder is not None else None
    if path is None or not path.exists():
        raise AbsentError("the trained networks are absent (../shared, or where HASTE_SHARED points)")
    spec = importlib.util.spec_from_file_location("real_networks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _shared(name: str) -> Callable[[], nn.Module]:
    def load() -> nn.Module:
        try:
            return real_networks().load(name)
        except ModuleNotFoundError as error:
            raise AbsentError(f"{name} needs {error.name}, which is not installed") from None

    return load


VISION: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "unet": (UNet, (1, 3, 256, 256)),
    "unet_bilinear": (lambda: UNet(bilinear=True), (1, 3, 256, 256)),
    "dcgan": (Dcgan, (1, 100, 1, 1)),
    "style_transfer": (StyleTransfer, (1, 3, 256, 256)),
    "dncnn": (DnCnn, (1, 1, 180, 180)),
    "detector": (Detector, (1, 3, 320, 320)),
    "fcn_resnet50": (_torchvision("fcn_resnet50"), (1, 3, 224, 224)),
    "deeplabv3_mobilenet_v3": (_torchvision("deeplabv3_mobilenet_v3_large"), (1, 3, 224, 224)),
    "lraspp_mobilenet_v3": (_torchvision("lraspp_mobilenet_v3_large"), (1, 3, 224, 224)),
    "convnextv2_atto": (_timm("convnextv2_atto"), (1, 3, 224, 224)),
    "vit_tiny": (_timm("vit_tiny_patch16_224"), (1, 3, 224, 224)),
    "swin_tiny": (_timm("swin_tiny_patch4_window7_224"), (1, 3, 224, 224)),
    "mobilevit_s": (_timm("mobilevit_s"), (1, 3, 256, 256)),
    "srvgg": (_shared("srvgg"), (1, 3, 128, 128)),
    "efficientnet_lite0": (_shared("efflite0"), (1, 3, 224, 224)),
    "ocr_detection": (_shared("ocrdet"), (1, 3, 480, 640)),
}
"""Each network's name: what builds it, and the shape of its input."""


_TRAINED = ("srvgg", "efficientnet_lite0", "ocr_detection")


def build(name: str) -> nn.Module:
    """The network in evaluation mode, the same weights each time; batch norms of random ones have statistics.

    Raises:
        AbsentError: it is not there.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VISION[name][0]().eval()
        if name not in _TRAINED and any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
            x = example_input(name)
            zoo.set_batch_norm_statistics(model, torch.cat((x, x.flip(-1))))
    return model


def build_or_skip(name: str) -> nn.Module:
    """The network; skips the test where it is not there."""
    try:
        return build(name)
    except AbsentError as error:
        pytest.skip(str(error))


def example_input(name: str) -> Tensor:
    """Noise of the shape that the network takes."""
    return torch.randn(VISION[name][1], generator=torch.Generator().manual_seed(0))
