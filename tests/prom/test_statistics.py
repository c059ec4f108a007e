"""Batch norms' statistics, found anew."""

import torch
from torch import nn

from haste_compiler.prom.augment import shifted
from haste_compiler.prom.data import Labelled, normalized
from haste_compiler.prom.statistics import estimate_statistics


def test_means_and_variances_are_averages_over_batches_and_nothing_else_changes() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.9), nn.Flatten())
    norm = network[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean.fill_(100)
    before = {name: value.clone() for name, value in network.state_dict().items() if "running" not in name}
    pixels = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    images = Labelled(pixels, torch.zeros(40, dtype=torch.int64), True)
    estimate_statistics(network, images, 40)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(40, generator=generator)
    y = network[0](normalized(shifted(pixels[order], generator, mirrored=True)))
    torch.testing.assert_close(norm.running_mean, y.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, y.var((0, 2, 3)))
    whole = norm.running_mean.clone()
    estimate_statistics(network, images, 16)
    # Two calls of 16: 8 images are left out.
    assert int(norm.num_batches_tracked) == 2 and (norm.running_mean - whole).abs().max() < 0.2
    assert norm.momentum == 0.3 and not any(module.training for module in network.modules())
    kept = {name: value for name, value in network.state_dict().items() if name in before and "tracked" not in name}
    assert all(torch.equal(value, before[name]) for name, value in kept.items())
