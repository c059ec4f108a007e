"""Batch norms' statistics, found anew for the weights as they are in the end."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from haste_compiler.prom.augment import shifted
from haste_compiler.prom.data import Labelled, normalized

_IMAGES = 10_000
"""Training images that are enough."""


@torch.no_grad()
def estimate_statistics(network: nn.Module, images: Labelled, batch: int) -> None:
    """Set all batch norms' means and variances to their averages over batches, in place; nothing else changes.

    While training, ternary weights near their threshold change to and fro with every step, and running averages are of
    weights that differ from the last ones.

    Source: Nagel et al., arXiv 2203.11086, section 4.1.

    Args:
        network: is left in evaluation mode.
        images: to train on; up to 10,000 are looked at, shifted and mirrored.
        batch: images of a call.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    network.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        # None: the plain average over all calls.
        norm.momentum = None
    count, generator = min(len(images.labels), _IMAGES), torch.Generator().manual_seed(0)
    # Images may be sorted by class, and every call should see all classes.
    order = torch.randperm(len(images.labels), generator=generator)[:count]
    for which in order[: count - count % batch or count].split(batch):
        # Shifted as in training: statistics of the images as they are cost accuracy.
        network(normalized(shifted(images.pixels[which], generator, mirrored=images.mirrored)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
