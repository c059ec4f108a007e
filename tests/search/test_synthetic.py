"""Images made up from noise and what batch norms remember."""

import torch
from torch import Tensor, nn

from haste_compiler.search.synthetic import draw_images, pink_noise


def network() -> nn.Module:
    """Batch norms that remember images with a strong red and a dark blue."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(8 * 64, 4))
    seen = pink_noise((64, 3, 8, 8), torch.Generator().manual_seed(5)) * 2 + torch.tensor([1.5, 0, -1]).view(3, 1, 1)
    norms = [module for module in model if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    model.train()(seen)
    return model.eval()


def means(images: Tensor) -> Tensor:
    return images.mean(dim=(0, 2, 3))


def test_images_take_the_means_that_the_batch_norms_remember() -> None:
    model = network()
    first = model[0]  # type: ignore[index]
    images = draw_images(model, (3, 8, 8), seed=1, count=32)
    noise = pink_noise((32, 3, 8, 8), torch.Generator().manual_seed(1))
    assert images.shape == (32, 3, 8, 8)
    assert (means(images) - first.running_mean).norm() < 0.6 * (means(noise) - first.running_mean).norm()


def test_same_seed_same_images_and_the_network_is_left_alone() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = draw_images(model, (3, 8, 8), seed=1, count=8)
    assert torch.equal(images, draw_images(model, (3, 8, 8), seed=1, count=8))
    assert not torch.equal(images, draw_images(model, (3, 8, 8), seed=2, count=8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_batch_norms_they_are_noise_like_photographs() -> None:
    """Neighbouring pixels and colours are alike, as they are in photographs and not in white noise."""
    images = draw_images(nn.Conv2d(3, 4, 3), (3, 32, 32), seed=0, count=16)
    near = (images[..., 1:] * images[..., :-1]).mean() / images.square().mean()
    colours = (images[:, 0] * images[:, 1]).mean() / images.square().mean()
    assert near > 0.6
    assert colours > 0.8
    assert 0.9 < images.std() < 1.1
