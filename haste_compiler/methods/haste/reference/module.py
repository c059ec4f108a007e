"""A HASTE convolution that takes the place of an ``nn.Conv2d``."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haste_compiler.errors import InputError
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.macs import count_macs
from haste_compiler.methods.haste.ops.convolve import convolve
from haste_compiler.methods.haste.ops.group import group
from haste_compiler.methods.haste.ops.hash import hash_
from haste_compiler.methods.haste.ops.hyperplanes import hyperplanes
from haste_compiler.methods.haste.ops.merge import merge_
from haste_compiler.methods.haste.reference.convolution import HasteResult, haste_conv2d
from haste_compiler.methods.haste.reference.grouping import filter_norms
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.methods.macs import MacCount


class HasteConv2d(nn.Module):
    """A convolution that merges similar channels of every patch; input, output and parameters as in ``nn.Conv2d``.

    ``module.configure(tolerance=0.2)`` changes its configuration between two calls. For inference: no gradient flows
    through it.

    Args:
        conv: float32 convolution whose parameters are shared, not copied; any padding mode.
        config: the layer's configuration.
        name: the layer's qualified name; its hyperplanes are drawn for it.
    """

    weight: Tensor
    bias: Tensor | None
    settings: Tensor

    def __init__(self, conv: nn.Conv2d, config: HasteConfig, name: str = "") -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.dilation, self.groups = _pair(conv.stride), _pair(conv.dilation), conv.groups
        self.padding, self.padding_mode = four_paddings(conv), conv.padding_mode
        self.config, self.name = config, name
        # Not persistent: a state dict of the original network fits the swapped one.
        self.register_buffer("settings", Settings.of(config).pack().to(conv.weight.device), persistent=False)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, config: HasteConfig | None = None, name: str = "") -> Self:
        """Build from a convolution; no configuration means the default one."""
        return cls(conv, config or HasteConfig(), name)

    def configure(self, **changes: Any) -> None:
        """Change fields of the configuration, from the next call on.

        Raises:
            ConfigError: an unknown field or a value out of range.
        """
        self.config = self.config.replace(**changes)
        self.settings.copy_(Settings.of(self.config).pack())

    def forward(self, x: Tensor) -> Tensor:
        """Convolve float32 (N, C, H, W) or (C, H, W).

        Raises:
            InputError: another dtype or rank, other channels, or an image smaller than the kernel.
        """
        images, g = self._prepare(x)
        window = (g.kernel, g.stride, g.padding, g.dilation, g.groups, g.patch)
        planes = hyperplanes(g.window_pixels, self.config.seed, self.name, x.device, self.config.nonzeros)
        codes = hash_(images, planes, self.settings, *window)
        norms = filter_norms(self.weight, self.groups)
        merge, skip = self.config.merge, self.config.skip
        slot, coeff, offset = group(images, codes, norms, self.settings, *window, merge, skip)
        merged = merge_(images, slot, *window, merge)
        y = convolve(merged, slot, coeff, offset, self.weight, self.bias, None, g.input_size, *window[1:], "none")
        return y if x.dim() == 4 else y.squeeze(0)

    @torch.no_grad()
    def analyse(self, x: Tensor) -> tuple[HasteResult, MacCount]:
        """Convolve, and say what became of every channel, the error bound of every patch and the multiply-adds spent.

        Raises:
            InputError: as for ``forward``.
        """
        images, geometry = self._prepare(x)
        now, config = Settings.unpack(self.settings), self.config
        planes = hyperplanes(geometry.window_pixels, config.seed, self.name, x.device, config.nonzeros)
        result = haste_conv2d(
            images, self.weight, self.bias, planes, now, geometry, merge=config.merge, skip=config.skip
        )
        macs = count_macs(
            geometry,
            result.counts.cpu(),
            now.num_hyperplanes,
            config.merge,
            config.tolerance is not None,
            config.skip,
            config.nonzeros,
        )
        return result, macs

    def geometry(self, height: int, width: int) -> ConvGeometry:
        """Geometry on images of ``height`` x ``width`` pixels, once those of a non-zero padding mode are padded.

        Raises:
            InputError: the image is smaller than the kernel.
        """
        channels, kernel = self.weight.shape[1] * self.groups, _pair(self.weight.shape[2:])
        padding = self.padding if self.padding_mode == "zeros" else (0, 0, 0, 0)
        whole = ConvGeometry(
            channels,
            self.weight.shape[0],
            kernel,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            (height, width),
            (1, 1),
        )
        return dataclasses.replace(whole, patch=self.config.patch_for(whole.output_size))

    def extra_repr(self) -> str:
        """What ``print`` shows of the layer."""
        outputs, channels, kh, kw = self.weight.shape
        config = self.config
        return (
            f"{channels * self.groups}, {outputs}, kernel_size=({kh}, {kw}), stride={self.stride}, "
            f"padding={self.padding}, groups={self.groups}, patch_size={config.patch_size}, "
            f"planes={config.num_hyperplanes}, nonzeros={config.nonzeros}, merge={config.merge}, "
            f"tolerance={config.tolerance}, skip={config.skip}"
        )

    def _prepare(self, x: Tensor) -> tuple[Tensor, ConvGeometry]:
        """``x`` as a batch, padded where the operators cannot, and its geometry."""
        if x.dtype != torch.float32 or x.dim() not in (3, 4):
            raise InputError(f"expected float32 of (N, C, H, W) or (C, H, W), got {x.dtype} of {tuple(x.shape)}")
        images = x if x.dim() == 4 else x.unsqueeze(0)
        channels = self.weight.shape[1] * self.groups
        if images.shape[1] != channels:
            raise InputError(f"expected {channels} channels, got {images.shape[1]} in {tuple(x.shape)}")
        if self.padding_mode != "zeros":
            top, bottom, left, right = self.padding
            images = F.pad(images, (left, right, top, bottom), self.padding_mode)
        return images, self.geometry(images.shape[2], images.shape[3])


def four_paddings(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """Padding of a convolution, top, bottom, left, right; "same" puts the odd pixel at the bottom and right."""
    if conv.padding == "same":
        reach = [dilation * (kernel - 1) for dilation, kernel in zip(conv.dilation, conv.kernel_size, strict=True)]
        return reach[0] // 2, reach[0] - reach[0] // 2, reach[1] // 2, reach[1] - reach[1] // 2
    vertical, horizontal = (0, 0) if isinstance(conv.padding, str) else _pair(conv.padding)
    return vertical, vertical, horizontal, horizontal


def _pair(values: tuple[int, ...] | torch.Size) -> tuple[int, int]:
    return int(values[0]), int(values[1])
