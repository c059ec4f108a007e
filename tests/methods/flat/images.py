"""Images with even areas."""

import torch
from torch import Tensor


def even_images(batch: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Two constant colours, a strip of noise in between, and a frame that repeats along the image's sides."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.empty(batch, channels, height, width)
    x[:] = torch.randn(batch, channels, 1, 1, generator=generator)
    x[..., height // 2 :, :] = torch.randn(channels, 1, 1, generator=generator)
    column = int(torch.randint(0, max(1, width - 2), (), generator=generator))
    x[..., : height // 2, column : column + 2] = torch.randn(batch, channels, height // 2, 2, generator=generator)[
        ..., : width - column
    ]
    return x
