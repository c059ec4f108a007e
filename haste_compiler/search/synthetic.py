"""Images for a search when there are none: noise, moved towards what the network's batch norms saw in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from haste_compiler.validation.comparison import is_scores

COUNT = 256
_BATCH = 64
_STEPS = 15
"""More make the classes surer than those of photographs are, and the savings smaller."""
_RATE = 0.05


def draw_images(model: nn.Module, shape: Sequence[int], seed: int, count: int = COUNT) -> Tensor:
    """Draw images whose features have the means and variances that the network's batch norms remember.

    They begin as noise with the spectrum of photographs (amplitude 1/f), channels correlated; gradient descent then
    moves them towards the batch norms' running statistics and, where the network returns class scores, towards a class
    drawn for each (DeepInversion: Yin et al., Dreaming to Distill, 2020). Without batch norms the noise is all.

    Args:
        model: in evaluation mode; its weights are left alone.
        shape: of one image, (C, H, W).
        seed: of the noise and the classes.
        count: of images.

    Returns:
        float32 (count, C, H, W).
    """
    generator = torch.Generator().manual_seed(seed)
    noise = pink_noise((count, *shape), generator)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d) and module.track_running_stats]
    if not norms:
        return noise
    return torch.cat([_optimise(model, norms, batch, generator) for batch in noise.split(_BATCH)])


def pink_noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Noise (N, C, H, W) of mean 0 and variance 1 whose amplitudes fall as 1/f, channels correlated by 0.9.

    Field, Relations between the statistics of natural images and the response properties of cortical cells, 1987.
    """
    count, channels, height, width = shape
    frequency = (
        torch.fft.fftfreq(height).unsqueeze(1).square() + torch.fft.rfftfreq(width).unsqueeze(0).square()
    ).sqrt()
    amplitude = 1 / frequency.clamp(min=1 / max(height, width))
    common = torch.randn(count, 1, height, width, generator=generator)
    own = torch.randn(count, channels, height, width, generator=generator)
    white = 0.9**0.5 * common + 0.1**0.5 * own
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=(height, width))
    return noise / noise.square().mean().sqrt()


def _optimise(model: nn.Module, norms: Sequence[nn.BatchNorm2d], start: Tensor, generator: torch.Generator) -> Tensor:
    # Tensors made in inference mode can't be differentiated.
    with torch.inference_mode(False), torch.enable_grad():
        pixels = start.clone().requires_grad_(True)
        # Contrast and brightness of each channel: how inputs are normalised is not known.
        contrast, brightness = (torch.zeros(1, start.shape[1], 1, 1, requires_grad=True) for _ in range(2))
        parameters = [pixels, contrast, brightness]
        rates = [_RATE, 4 * _RATE, 4 * _RATE]
        groups = [{"params": [tensor], "lr": rate} for tensor, rate in zip(parameters, rates, strict=True)]
        optimiser = torch.optim.Adam(groups)
        classes: Tensor | None = None
        with _mismatches(norms) as mismatches:
            for _ in range(_STEPS):
                mismatches.clear()
                images = pixels * contrast.exp() + brightness
                result = model(images)
                loss = torch.stack(mismatches).mean()
                scores = next((leaf for leaf in tree_leaves(result) if is_scores(leaf)), None)
                if scores is not None:
                    if classes is None:
                        classes = torch.randint(scores.shape[1], (len(images),), generator=generator)
                    loss = loss + 0.1 * nn.functional.cross_entropy(scores, classes)
                for tensor, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    tensor.grad = gradient
                optimiser.step()
        return (pixels * contrast.exp() + brightness).detach()


@contextmanager
def _mismatches(norms: Sequence[nn.BatchNorm2d]) -> Iterator[list[Tensor]]:
    """A list to which every batch norm adds how far its input's mean and variance are from those it remembers."""
    found: list[Tensor] = []

    def compare(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mean, variance = inputs[0].mean(dim=(0, 2, 3)), inputs[0].var(dim=(0, 2, 3), correction=0)
        known_mean: Any = norm.running_mean
        known_variance: Any = norm.running_var
        scale = known_variance + 1e-5
        found.append(((mean - known_mean).square() / scale).mean() + ((variance / scale + 1e-5).log().square()).mean())

    handles = [norm.register_forward_pre_hook(compare) for norm in norms]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
