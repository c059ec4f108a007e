"""What a configuration does to a network on images: accuracy, agreement, output error and multiply-adds."""

import dataclasses
import importlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import haste_compiler
from benchmarks.cases import ABSENT, AbsentError
from haste_compiler import HasteConfig, InputError
from haste_compiler.cli.images import list_images
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.methods.macs import MacCount
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.validation.macs import dense_macs
from tests import zoo

TRAINED = ("resnet18", "resnet34", "resnet20")
"""Networks trained on CIFAR-10 that lie beside a checkout, with their test images."""

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_MOST_COMPILED = 2

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Workload:
    """A network, images and what the network makes of them.

    Attributes:
        name: for titles.
        model: in evaluation mode.
        pixels: uint8 (N, H, W, 3).
        labels: int64 (N,), or None: only agreement and output error are measured.
        normalise: from pixels to what the network takes.
        scores: the network's own, (N, classes).
        macs: dense multiply-adds of one image.
        batch: images a call.
    """

    name: str
    model: nn.Module
    pixels: Pixels
    labels: Tensor | None
    normalise: Callable[[Pixels], Tensor]
    scores: Tensor
    macs: int
    batch: int

    def rows(self, part: slice) -> "Workload":
        """The same network on some of the images."""
        labels = None if self.labels is None else self.labels[part]
        return dataclasses.replace(self, pixels=self.pixels[part], labels=labels, scores=self.scores[part])

    def calls(self) -> list[Tensor]:
        """All images in calls of ``batch``; the last image is repeated where they do not fill the last call."""
        count = len(self.pixels)
        starts = range(0, count, self.batch)
        return [self.normalise(self.pixels[np.arange(s, s + self.batch).clip(max=count - 1)]) for s in starts]


@dataclass(frozen=True)
class Outcome:
    """What one configuration did.

    Attributes:
        images: how many it was measured on.
        lost: points of top-1 accuracy lost; of agreement, where there are no labels.
        agreement: share of the images whose class is the original's.
        error: 2-norm of the scores' difference over that of the original's scores.
        net: share of the whole network's multiply-adds that was saved, every overhead counted.
        gross: the same without the overheads: only the convolutions got smaller.
        kept: share of the HASTE layers' channels that was convolved.
        overheads: share of the whole network's multiply-adds that each overhead took.
    """

    images: int
    lost: float
    agreement: float
    error: float
    net: float
    gross: float
    kept: float
    overheads: dict[str, float] = field(default_factory=dict)


def load(network: str, images: str = "cifar", limit: int = 10_000, batch: int = 50) -> Workload:
    """Load a network and images.

    Args:
        network: one of ``TRAINED``, "torchvision:NAME" (its pretrained weights) or "package.module:function", a
            function without arguments that returns a network for images normalised as torchvision does.
        images: "cifar", or a folder: of one folder a class, in the order of their names, or of images without labels.
        limit: most images. They are spread over the classes.
        batch: images a call.

    Raises:
        AbsentError: the network or the images are not on this machine.
    """
    labels: Tensor | None
    if images == "cifar":
        if network not in TRAINED:
            raise AbsentError(f"the CIFAR-10 images fit {', '.join(TRAINED)}: give a folder of images for {network}")
        pixels, labels = _cifar(limit)
    else:
        pixels, labels = read_folder(Path(images), limit, 32 if network in TRAINED else 224)
    model, normalise = _network(network)
    with torch.inference_mode():
        parts = [model(normalise(pixels[start : start + batch])) for start in range(0, len(pixels), batch)]
    macs = dense_macs(model, (normalise(pixels[:1]),))
    return Workload(network, model, pixels, labels, normalise, torch.cat(parts), macs, min(batch, len(pixels)))


def _network(name: str) -> tuple[nn.Module, Callable[[Pixels], Tensor]]:
    if name in TRAINED:
        module = zoo.trained_module()
        if module is None:
            raise AbsentError(ABSENT)
        return module.load(name), lambda pixels: module.normalize(pixels, name)
    where, _, what = name.partition(":")
    if where == "torchvision" and what:
        reason = zoo.missing_torchvision()
        if reason:
            raise AbsentError(reason)
        return importlib.import_module("torchvision.models").get_model(what, weights="DEFAULT").eval(), _normalise
    if not what:
        raise AbsentError(f"no network {name!r}: {', '.join(TRAINED)}, torchvision:NAME or package.module:function")
    return getattr(importlib.import_module(where), what)().eval(), _normalise


def _normalise(pixels: Pixels) -> Tensor:
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in _IMAGENET)
    x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255
    return ((x - mean) / std).contiguous()


def _cifar(limit: int) -> tuple[Pixels, Tensor]:
    module = zoo.trained_module()
    if module is None:
        raise AbsentError("the CIFAR-10 images are absent (../shared, or where HASTE_SHARED points)")
    pixels, labels = module.cifar10_test()
    # The file is sorted by class: a stride that shares no factor with 10,000 visits all of them.
    order = np.arange(min(limit, len(pixels))) * 3457 % len(pixels)
    return pixels[order], torch.from_numpy(labels[order].astype(np.int64))


def read_folder(folder: Path, limit: int, side: int) -> tuple[Pixels, Tensor | None]:
    """Read images, each scaled by its shorter side (8/7 of ``side``; ``side`` itself if that is small) and cut.

    Args:
        folder, limit: as for ``list_images``.
        side: of the result.

    Returns:
        Pixels uint8 (N, side, side, 3), and labels int64 (N,) or None.

    Raises:
        AbsentError: there is no such folder, or no image in it.
    """
    from PIL import Image

    try:
        files, classes = list_images(folder, limit)
    except InputError as error:
        raise AbsentError(str(error)) from None
    shorter = side if side < 64 else side * 8 // 7
    pixels = []
    for path in files:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        scale = shorter / min(image.size)
        width, height = (max(shorter, round(length * scale)) for length in image.size)
        left, top = (width - side) // 2, (height - side) // 2
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels.append(np.asarray(resized.crop((left, top, left + side, top + side))))
    return np.stack(pixels), None if classes is None else torch.tensor(classes)


@dataclass(frozen=True)
class Answers:
    """What a compiled network made of all images of a workload.

    Attributes:
        scores: (N, classes).
        macs: of all HASTE layers, on the images counted.
        channels: of each HASTE layer: seen on the images counted, and those of them that were convolved.
        counted: images that the multiply-adds are of.
    """

    scores: Tensor
    macs: MacCount
    channels: Mapping[str, tuple[float, float]]
    counted: int

    def outcome(self, workload: Workload, part: slice = slice(None)) -> Outcome:
        """Compare the scores of some of the images with the original's; multiply-adds are those of all counted."""
        scores, original = self.scores[part], workload.scores[part]
        before, after = original.argmax(dim=1), scores.argmax(dim=1)
        agreement = float((before == after).double().mean())
        lost = 100 * (1 - agreement)
        if workload.labels is not None:
            labels = workload.labels[part]
            lost = 100 * float(((before == labels).double() - (after == labels).double()).mean())
        error = float((scores.double() - original.double()).norm() / original.double().norm())
        whole, macs = workload.macs * self.counted, self.macs
        parts = {name: value / whole for name, value in macs.parts.items()}
        gross = macs.dense / whole - parts.pop("convolution")
        net = (macs.dense - macs.spent) / whole
        seen, kept = (sum(layer[i] for layer in self.channels.values()) for i in (0, 1))
        return Outcome(len(scores), lost, agreement, error, net, gross, kept / max(1, seen), parts)


class Evaluator:
    """Runs compiled networks; one that differs only in what can be steered is not compiled again.

    Args:
        model: the network.
        stats: images, at most, that multiply-adds are counted on.
        tick: called with what is being done.
    """

    def __init__(self, model: nn.Module, stats: int = 1000, tick: Callable[[str], None] = lambda doing: None) -> None:
        self._model, self._stats, self._tick = model, stats, tick
        self._compiled: OrderedDict[HasteConfig, CompiledModule] = OrderedDict()

    def run(self, workload: Workload, config: HasteConfig) -> Answers:
        """Run the network under a configuration on all images of a workload."""
        compiled = self._steered(config, workload)
        scores: list[Tensor] = []
        macs, channels, counted = MacCount(), dict[str, tuple[float, float]](), 0
        for x in workload.calls():
            self._tick(f"{describe(config)}: {len(scores) * workload.batch} of {len(workload.pixels)} images")
            if counted >= self._stats:
                scores.append(compiled(x))
                continue
            y, stats = compiled.run_with_stats(x)
            scores.append(y)
            counted += workload.batch
            for name, layer in stats.items():
                macs += layer.macs
                seen, kept = channels.get(name, (0, 0))
                channels[name] = seen + layer.channels, kept + layer.kept * layer.channels
        return Answers(torch.cat(scores)[: len(workload.pixels)], macs, channels, counted)

    def _steered(self, config: HasteConfig, workload: Workload) -> CompiledModule:
        overrides = {pattern: dict(override) for pattern, override in config.layers.items()}
        fixed = {p: {k: v for k, v in o.items() if k not in Settings._fields} for p, o in overrides.items()}
        plain = HasteConfig()
        key = config.replace(layers=fixed, **{name: getattr(plain, name) for name in Settings._fields})
        if key not in self._compiled:
            while len(self._compiled) >= _MOST_COMPILED:
                self._compiled.popitem(last=False)
            self._tick(f"compiling {describe(config)}")
            x = workload.normalise(workload.pixels[np.zeros(workload.batch, np.int64)])
            self._compiled[key] = haste_compiler.compile(self._model, (x,), config=key)
        self._compiled.move_to_end(key)
        compiled = self._compiled[key]
        for name in Settings._fields:
            # Nothing reads how flat a patch must be where none is skipped.
            if name == "flat_tolerance" and config.skip != "flat":
                continue
            setattr(compiled, name, getattr(config, name))
            setattr(compiled, name, {p: o[name] for p, o in overrides.items() if name in o and o.get("enabled", True)})
        return compiled


def describe(config: HasteConfig) -> str:
    """A configuration in a few words."""
    if config.layers:
        return f"{config.merge}, settings by layer"
    patch = config.patch_size if isinstance(config.patch_size, int | None) else "×".join(map(str, config.patch_size))
    words = [config.merge, f"{config.num_hyperplanes} planes", f"patch {patch or 'about 8'}"]
    if config.tolerance is not None:
        words.append(f"tolerance {config.tolerance:g}")
    words.append(f"flat {config.flat_tolerance:g}" if config.skip == "flat" else f"skip {config.skip}")
    if not config.min_reads:
        words.append("all layers")
    return ", ".join(words)


def undominated(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats, by rising saving.

    Args:
        points: (saving, harm) each: more saving and less harm are better.
    """
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], points[i][1]))
    best, kept = float("inf"), []
    for i in order:
        if points[i][1] < best:
            best = points[i][1]
            kept.append(i)
    return kept[::-1]
