"""The images that networks are probed with."""

import pytest
import torch

from haste_compiler.cost.images import dead_leaves


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 1, 8, 13), (1, 4, 40, 9)])
def test_images_are_repeatable_and_about_normalised(shape: tuple[int, ...]) -> None:
    x = dead_leaves(shape, 3)
    assert x.shape == shape and x.dtype == torch.float32 and x.isfinite().all()
    assert torch.equal(x, dead_leaves(shape, 3)) and not torch.equal(x, dead_leaves(shape, 4))
    assert 0.3 < x.std() < 2
    if shape[0] > 1:
        assert not torch.equal(x[0], x[1])


def test_natural_images_have_the_spectrum_of_nature() -> None:
    # Power falls about as 1 / frequency²: by more than 1 / frequency, by less than 1 / frequency⁴.
    x = torch.cat([dead_leaves((4, 1, 128, 128), seed) for seed in range(4)])
    power = torch.fft.rfft2(x).abs().square().mean(dim=(0, 1))
    down, across = torch.fft.fftfreq(128).unsqueeze(1) * 128, torch.fft.rfftfreq(128) * 128
    radius = (down.square() + across.square()).sqrt()
    low, high = (power[(radius >= r) & (radius < 2 * r)].mean() for r in (2, 16))
    assert 8 < low / high < 8**4


def test_colours_are_alike() -> None:
    red, green = dead_leaves((1, 3, 96, 96), 0)[0, :2].flatten(1)
    assert torch.corrcoef(torch.stack([red, green]))[0, 1] > 0.6


def test_large_images_are_enlarged_small_ones() -> None:
    x = dead_leaves((1, 3, 600, 400), 0)
    assert x.shape == (1, 3, 600, 400) and abs(float(x.std()) - 1) < 0.01
