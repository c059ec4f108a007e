"""A HASTE convolution in eager PyTorch: hash, group, merge and convolve as one layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from haste_compiler.methods.haste.calls import Calls
from haste_compiler.methods.haste.ops.convolve import ConvolveCall
from haste_compiler.methods.haste.reference.merging import group_sizes
from haste_compiler.methods.haste.reference.windows import view_windows
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.methods.merged_channels import ChannelGroup, MergedChannels
from haste_compiler.ops.call import OpCall
from haste_compiler.ops.conv2d import ConvCall

_GROUP = 2
"""Channels that a group has at least."""


@dataclass(frozen=True)
class Replayed:
    """See ``OwnedLayer``.

    Attributes:
        calls: of the grouping.
        convolve: the layer's own.
        values: of every node that these read, but for what one makes for another.
    """

    calls: Calls
    convolve: ConvolveCall
    values: Mapping[fx.Node, Any]

    @classmethod
    def of(cls, node: fx.Node, values: Mapping[fx.Node, Any], steered: Sequence[float] | None) -> Replayed:
        """The layer of a node of ``convolve``; arguments as of ``Method.replayed``."""
        convolve = ConvolveCall.of(node)
        calls = Calls.of(convolve.merged)
        if steered is not None:
            values = {**values, calls.hash.settings: Settings.read(steered).pack()}
        return cls(calls, convolve, values)

    @property
    def x(self) -> Tensor:
        """See ``OwnedLayer``."""
        read: Tensor = self.values[self.calls.hash.x]
        return read

    @property
    def patch(self) -> tuple[int, int]:
        """See ``OwnedLayer``."""
        return self.convolve.geometry.patch

    def compute(self, x: Tensor | None = None) -> Tensor:
        """See ``OwnedLayer``."""
        result: Tensor = _run(self.convolve, self._merged(x))
        return result

    def merged_channels(self, image: int) -> MergedChannels | None:
        """The groups of the patch of an image in which most channels are merged; None: none are."""
        values = self._merged(None)
        slots, merged = values[self.convolve.slot][image], values[self.calls.node][image]
        windows = view_windows(self.x, self.convolve.geometry)[image]
        sizes = group_sizes(slots.flatten(0, 1))
        saved = (sizes - 1).clamp(min=0).sum(1)
        if not bool(saved.any()):
            return None
        row, column = divmod(int(saved.argmax()), slots.shape[1])
        slot, size = slots[row, column], sizes[int(saved.argmax())]
        order = [int(number) for number in size.argsort(descending=True, stable=True) if size[number] >= _GROUP]
        groups = []
        for number in order:
            members = torch.nonzero(slot == number).flatten()
            held, made = windows[row, column, members].float().numpy(), merged[row, column, number].float().numpy()
            groups.append(ChannelGroup(tuple(members.tolist()), held, made))
        return MergedChannels((row, column), tuple(groups))

    def _merged(self, x: Tensor | None) -> dict[fx.Node, Any]:
        """All values up to the merged windows, with what the layer reads as it is given."""
        calls, convolve = self.calls, self.convolve
        values = {**self.values, calls.hash.x: self.x if x is None else x}
        values[calls.group.codes] = _run(calls.hash, values)
        values.update(zip((convolve.slot, convolve.coeff, convolve.offset), _run(calls.group, values), strict=True))
        values[calls.node] = _run(calls.merge, values)
        return values

    def plain(self) -> Tensor:
        """See ``OwnedLayer``."""
        call = self.convolve
        read = (self.calls.hash.x, call.weight, call.bias, call.residual)
        windows = (call.stride, call.padding, call.dilation, call.groups)
        result: Tensor = _run(ConvCall(*read, *windows, call.activation), self.values)
        return result


def _run(call: OpCall, values: Mapping[fx.Node, Any]) -> Any:
    return call.OP(*map_arg(call.args, lambda node: values[node]))
