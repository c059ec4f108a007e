"""``haste::hyperplanes``: a layer's hyperplanes, drawn where their number is known only once the input's size is."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from haste_compiler.methods.haste.config import MAX_HYPERPLANES
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes


@torch.library.custom_op(
    "haste::hyperplanes",
    mutates_args=(),
    schema="(int window_pixels, int seed, str layer, Device device, int? nonzeros=None) -> Tensor",
)
def hyperplanes(window_pixels: int, seed: int, layer: str, device: torch.device, nonzeros: int | None = None) -> Tensor:
    """Draw a layer's hyperplanes, (30, window_pixels), where their number is known only once the input's size is."""
    return _cached_hyperplanes(window_pixels, seed, layer, nonzeros).to(device, copy=True)


@hyperplanes.register_fake
def _(window_pixels: int, seed: int, layer: str, device: torch.device, nonzeros: int | None = None) -> Tensor:
    return torch.empty(MAX_HYPERPLANES, window_pixels, device=device)


_cached_hyperplanes = lru_cache(maxsize=256)(draw_hyperplanes)
