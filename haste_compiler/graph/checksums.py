"""Noticing that a model's weights have changed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def checksums(model: nn.Module) -> dict[str, int]:
    """A checksum of every parameter and buffer, but for sparse ones."""
    tensors = [each for each in (*model.named_parameters(), *model.named_buffers()) if each[1].layout == torch.strided]
    return {name: zlib.crc32(bytes_of(tensor).cpu().numpy().data) for name, tensor in tensors}


def changed(model: nn.Module, before: Mapping[str, int]) -> list[str]:
    """The names of parameters and buffers whose checksums aren't what they were."""
    return [name for name, checksum in checksums(model).items() if before.get(name) != checksum]


def bytes_of(tensor: Tensor) -> Tensor:
    """A tensor's values as bytes, (bytes,), uint8."""
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    # One element is contiguous whatever its stride is, which bytes aren't.
    return tensor.as_strided(tensor.shape, (1,)).view(torch.uint8)
