"""The networks that the tests run on: torchvision's with random weights, and trained ones where a checkout has them.

Nothing is downloaded. Where torchvision or the trained networks are absent, the loaders skip the test that asked and
say why.
"""

import functools
import importlib.metadata
import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

#: torchvision's name of each network, and the side of its images in pixels.
ZOO: dict[str, int] = {
    "resnet18": 224,
    "resnet34": 224,
    "resnet50": 224,
    "wide_resnet50_2": 224,
    "resnext50_32x4d": 224,
    "vgg11_bn": 224,
    "vgg16_bn": 224,
    "densenet121": 224,
    "googlenet": 224,
    "inception_v3": 299,
    "squeezenet1_1": 224,
    "mobilenet_v2": 224,
    "mobilenet_v3_large": 224,
    "shufflenet_v2_x1_0": 224,
    "mnasnet1_0": 224,
    "efficientnet_b0": 224,
    "regnet_y_400mf": 224,
    "convnext_tiny": 224,
    "alexnet": 224,
}

#: Networks that need more than `weights=None`: no auxiliary classifiers, no slow initialiser.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}

# Schemas that torchvision's Python half expects its binary half to have defined.
_BINARY_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor a, Tensor b, float c, SymInt d, SymInt e, int f, bool g) -> Tensor",
    "qroi_align(Tensor a, Tensor b, float c, int d, int e, int f, bool g) -> Tensor",
    "roi_pool(Tensor a, Tensor b, float c, SymInt d, SymInt e) -> (Tensor, Tensor)",
    "ps_roi_align(Tensor a, Tensor b, float c, SymInt d, SymInt e, int f) -> (Tensor, Tensor)",
    "ps_roi_pool(Tensor a, Tensor b, float c, SymInt d, SymInt e) -> (Tensor, Tensor)",
    "deform_conv2d(Tensor a) -> Tensor",
    "_roi_align_backward(Tensor a) -> Tensor",
    "_roi_pool_backward(Tensor a) -> Tensor",
    "_ps_roi_align_backward(Tensor a) -> Tensor",
    "_ps_roi_pool_backward(Tensor a) -> Tensor",
    "_deform_conv2d_backward(Tensor a) -> Tensor",
)


@functools.cache
def _definitions() -> torch.library.Library:
    """Define, for as long as the process lives, the operators of torchvision's binary; none of them can be run."""
    library = torch.library.Library("torchvision", "DEF")
    for schema in _BINARY_OPERATORS:
        library.define(schema)
    return library


@functools.cache
def import_torchvision() -> ModuleType:
    """Import torchvision, also next to a PyTorch that its binary half (detection operators) was not built for.

    Raises:
        ImportError: torchvision is not installed, or its Python half does not fit either.
    """
    if importlib.util.find_spec("torchvision") is None:
        raise ImportError("torchvision is not installed")
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        # The binary half did not load: "operator torchvision::nms does not exist". No classification network needs it.
        if "torchvision::" not in str(error):
            raise ImportError(f"torchvision cannot be imported: {error}") from error
    _definitions()
    return importlib.import_module("torchvision")


def missing_torchvision() -> str:
    """Say why torchvision's networks cannot be had, or return the empty string."""
    try:
        import_torchvision()
    except ImportError as error:
        return str(error)
    return ""


def set_batch_norm_statistics(model: nn.Module, x: Tensor, passes: int = 2) -> None:
    """Set the running statistics of all batch norms to the average over a few forward passes, in place.

    Random weights with untouched statistics make activations vanish or explode after some tens of layers.

    Args:
        model: any network; left in evaluation mode.
        x: images of the first pass; each later pass sees noise of the same shape.
        passes: how many.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # plain average over the passes
    with torch.no_grad():
        for i in range(passes if norms else 0):
            model(x if i == 0 else torch.randn_like(x))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def example_input(name: str, batch: int = 1, size: int | None = None, seed: int = 0) -> Tensor:
    """Smoothed noise (batch, 3, size, size), about unit variance: nearer to an image than white noise is.

    Args:
        name: of the network, for its usual size.
        batch: images.
        size: side in pixels; None: the network's own.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    side = size or ZOO[name]
    coarse = torch.randn(batch, 3, max(side // 8, 1), max(side // 8, 1), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
    return smooth + 0.2 * torch.randn(batch, 3, side, side, generator=generator)


def build(name: str, size: int | None = None, seed: int = 0) -> nn.Module:
    """One of torchvision's networks in evaluation mode: random weights, batch-norm statistics of a few noise images.

    Args:
        name: torchvision's, one of `ZOO` or any other classification network.
        size: side in pixels of the images that set the statistics; None: the network's own.
        seed: of the weights.

    Raises:
        ImportError: no usable torchvision.
    """
    import_torchvision()
    models = importlib.import_module("torchvision.models")
    # The weights must not depend on what ran before, nor change what runs after.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = models.get_model(name, weights=None, **_ARGUMENTS.get(name, {}))
        set_batch_norm_statistics(model, example_input(name, batch=2, size=size, seed=seed + 1))
    return model


def zoo(name: str, size: int | None = None, seed: int = 0) -> nn.Module:
    """As `build`, but skip the test that asks where there is no torchvision."""
    reason = missing_torchvision()
    if reason:
        pytest.skip(reason)
    return build(name, size, seed)


def shared_folder() -> Path | None:
    """Folder of the trained networks and their images: $HASTE_SHARED, or `shared` beside the checkout; None: absent."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("HASTE_SHARED") or beside)
    return folder if (folder / "models" / "cifar_resnet.py").is_file() else None


@functools.cache
def trained_module() -> ModuleType | None:
    """Module with `load(name)`, `cifar10_test()` and `normalize(images, name)`, or None where it is absent."""
    folder = shared_folder()
    if folder is None:
        return None
    spec = importlib.util.spec_from_file_location("cifar_resnet", folder / "models" / "cifar_resnet.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _trained_or_skip() -> ModuleType:
    module = trained_module()
    if module is None:
        pytest.skip("trained networks are absent (../shared, or where HASTE_SHARED points)")
    return module


def trained(name: str) -> nn.Module:
    """Trained CIFAR-10 network "resnet18", "resnet34" or "resnet20" in evaluation mode; skips where it is absent."""
    return _trained_or_skip().load(name)


def cifar_images(name: str, count: int, start: int = 0) -> tuple[Tensor, Tensor]:
    """Test images spread over all classes, as the network `name` takes them, and labels; skips where they are absent.

    Args:
        name: of the trained network.
        count: images, of the 10,000.
        start: 0 to 9999; another start gives other images.

    Returns:
        Inputs (count, 3, 32, 32), float32, and labels (count,), int64.
    """
    module = _trained_or_skip()
    pytest.importorskip("PIL.Image", reason="Pillow, which decodes the test images, is not installed")
    images, labels = _cifar()
    # The file is sorted by class: a stride that shares no factor with 10,000 visits all of them.
    picked = (start + np.arange(count) * 3457) % len(images)
    return module.normalize(images[picked], name), torch.from_numpy(labels[picked].astype(np.int64))


@functools.cache
def _cifar() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    module = trained_module()
    assert module is not None
    return module.cifar10_test()


def photographs(count: int = 32, name: str = "resnet18") -> Tensor:
    """Photographs (count, 3, 224, 224) as the trained network `name` takes them; skips where they are absent.

    Args:
        count: images, of the 32.
        name: of the trained network.
    """
    module, folder = _trained_or_skip(), shared_folder()
    assert folder is not None
    return module.normalize(np.load(folder / "data" / "photos.npz")["images"][:count], name)
