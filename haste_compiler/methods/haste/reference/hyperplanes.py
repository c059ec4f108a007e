"""The sparse ternary hyperplanes that channels are hashed with."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from haste_compiler.methods.haste.config import MAX_HYPERPLANES


def draw_hyperplanes(window_pixels: int, seed: int, layer_name: str, nonzeros: int | None = None) -> Tensor:
    """Draw a layer's sparse ternary hyperplanes.

    The published draw has entries +1, 0, -1 with probability 1/6, 2/3, 1/6 (Achlioptas 2003). With ``nonzeros`` every
    plane has exactly so many of them, at random pixels, half +1 and half -1 (very sparse random projections: Li,
    Hastie and Church 2006).

    The draw depends on the arguments alone. As many are drawn as a code can hold; the first ones are those in use, so
    that their number can change between two calls. A plane of zeros would tell nothing apart and is drawn again.

    Args:
        window_pixels: input pixels of one window, at least 1.
        seed: the configuration's seed.
        layer_name: the layer's qualified name; layers with different names get different planes.
        nonzeros: non-zero entries of a plane, at most one for each pixel; None: the published draw.

    Returns:
        float32 (MAX_HYPERPLANES, window_pixels).
    """
    # The generator looks at the low 32 bits of its seed only: both have to go into those.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {layer_name}".encode()))
    planes = torch.zeros(MAX_HYPERPLANES, window_pixels)
    if nonzeros is not None:
        order = torch.rand(planes.shape, generator=generator).argsort(dim=1)[:, :nonzeros]
        signs = torch.ones(order.shape)
        signs[:, 1::2] = -1
        return planes.scatter_(1, order, signs)
    while bool((blank := (planes == 0).all(dim=1)).any()):
        faces = torch.randint(0, 6, (int(blank.sum()), window_pixels), generator=generator)
        planes[blank] = (faces == 0).float() - (faces == 1).float()
    return planes
