"""``haste::window_labels``: labels of what is computed pixel by pixel from windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from haste_compiler.graph.geometry import ConvGeometry, window_geometry
from haste_compiler.graph.nodes import shape_of
from haste_compiler.methods.flat.reference.windows import label_windows
from haste_compiler.ops.call import OpCall
from haste_compiler.ops.conv2d import Ints


@torch.library.custom_op(
    "haste::window_labels",
    mutates_args=(),
    schema="(Tensor labels, int[] kernel, int[] stride, int[] padding, int[] dilation) -> Tensor",
)
def window_labels(labels: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Tensor:
    """Labels (N, OH, OW) from (N, H, W), int32, see ``reference.windows``; padding is (top, bottom, left, right)."""
    geometry = _geometry(labels.shape, (kernel, stride, padding, dilation))
    return torch.stack([label_windows(image, geometry) for image in labels.cpu()]).to(labels.device)


@window_labels.register_fake
def _(labels: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Tensor:
    geometry = _geometry(labels.shape, (kernel, stride, padding, dilation))
    return labels.new_empty(labels.shape[0], *geometry.output_size)


def _geometry(labels: Any, window: tuple[Ints, Ints, Ints, Ints]) -> ConvGeometry:
    return window_geometry(1, labels[1:], (*window, 1, (1, 1)), 1)


WINDOW_LABELS = torch.ops.haste.window_labels.default


@dataclass(frozen=True)
class WindowLabelsCall(OpCall):
    """A call of ``haste::window_labels``."""

    OP: ClassVar[Any] = WINDOW_LABELS

    labels: fx.Node
    kernel: Ints
    stride: Ints
    padding: Ints
    dilation: Ints

    @property
    def geometry(self) -> ConvGeometry:
        """Of the windows."""
        return _geometry(shape_of(self.labels), (self.kernel, self.stride, self.padding, self.dilation))
