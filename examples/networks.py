"""The networks of the examples: the one that comes with this package, or one of torchvision's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from haste_compiler.demo import held_out_digits, load_network


def network_and_images(name: str | None, count: int) -> tuple[nn.Module, Tensor]:
    """A trained network in evaluation mode, and images (count, C, H, W) for it.

    Args:
        name: of a network of torchvision's, which is downloaded with its weights; its images are noise, so put your own
            in their place. None: the carried network and digits that it has never seen (scikit-learn has them).
        count: images.
    """
    if name is None:
        return load_network(), held_out_digits()[0][:count]
    import torchvision

    return torchvision.models.get_model(name, weights="DEFAULT").eval(), torch.randn(count, 3, 224, 224)
