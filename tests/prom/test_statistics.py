"""Batch norms' statistics, found anew."""

import torch
from torch import nn

from haste_compiler.prom.augment import shifted
from haste_compiler.prom.data import Labelled, normalized
from haste_compiler.prom.statistics import estimate_statistics


def test_means_and_variances_are_averages_over_batches_and_nothing_else_changes() -> None:
    norm = nn.BatchNorm2d(4, momentum=0.3)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Dropout(0.9), nn.Flatten())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pixels = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    images = Labelled(pixels, torch.zeros(40, dtype=torch.int64), True)

    estimate_statistics(network, images, 40)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(40, generator=generator)
    y = network[0](normalized(shifted(pixels[order], generator, mirrored=True)))
    whole = {name: value.clone() for name, value in network.state_dict().items()}
    torch.testing.assert_close(whole["1.running_mean"], y.mean((0, 2, 3)))
    torch.testing.assert_close(whole["1.running_var"], y.var((0, 2, 3)))

    estimate_statistics(network, images, 16)
    after = network.state_dict()
    # Two calls of 16: 8 images are left out.
    assert int(after["1.num_batches_tracked"]) == 2
    torch.testing.assert_close(after["1.running_mean"], whole["1.running_mean"], rtol=0, atol=0.2)
    assert norm.momentum == 0.3 and not any(module.training for module in network.modules())
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert {name for name in before if not torch.equal(before[name], after[name])} == statistics
