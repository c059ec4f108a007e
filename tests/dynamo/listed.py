"""The networks that `backend="haste"` is shown on: the zoo, timm's, and torchvision's heads for pixels and boxes."""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import zoo

#: timm's names; "vit" and "mobilevit" take one image size.
TIMM = (
    "resnet26d",
    "resnetv2_50",
    "vovnet39a",
    "dla34",
    "hrnet_w18_small",
    "cspresnet50",
    "res2net50_26w_4s",
    "ese_vovnet19b_dw",
    "ghostnet_100",
    "rexnet_100",
    "nfnet_l0",
    "repvgg_a0",
    "darknet53",
    "selecsls42b",
    "xception41",
    "mixnet_s",
    "vit_tiny_patch16_224",
    "mobilevit_s",
)
SEGMENTATION = ("fcn_resnet50", "deeplabv3_mobilenet_v3_large")
DETECTION = ("resnet18_fpn",)
LISTED = (*zoo.ZOO, *TIMM, *SEGMENTATION, *DETECTION)


def _images(batch: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(batch, 3, size // 8, size // 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
    return smooth + 0.2 * torch.randn(batch, 3, size, size, generator=generator)


def listed(name: str, batch: int, size: int | None = None) -> tuple[nn.Module, Tensor]:
    """One of the networks, random weights, and images for it; skips the test that asks where its package is absent.

    Args:
        name: one of `LISTED`.
        batch: images.
        size: side in pixels, where the network takes any; None: its usual one.
    """
    if reason := zoo.missing_torchvision():
        pytest.skip(reason)
    if name in zoo.ZOO:
        side = size if size and name != "inception_v3" else zoo.ZOO[name]
        return zoo.build(name, side), zoo.example_input(name, batch, side)
    side = 224 if size is None or "vit" in name else size
    x = _images(batch, side)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _build(name)
        zoo.set_batch_norm_statistics(model, _images(2, side))
    return model, x


def _build(name: str) -> Any:
    if name in TIMM:
        timm = pytest.importorskip("timm", reason="timm is not installed")
        return timm.create_model(name).eval()
    if name in DETECTION:
        detection = importlib.import_module("torchvision.models.detection.backbone_utils")
        return detection.resnet_fpn_backbone(backbone_name=name.removesuffix("_fpn"), weights=None).eval()
    return getattr(importlib.import_module("torchvision.models.segmentation"), name)(
        weights=None, weights_backbone=None
    ).eval()
