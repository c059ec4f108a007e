"""Which tiles of each frame a stream computed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, fx, nn

from haste_compiler.graph.capture import capture, evaluation_mode
from haste_compiler.graph.nodes import layer_name, shape_of
from haste_compiler.methods.work_map import WorkMap
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.ops.conv_transpose2d import CONV_TRANSPOSE2D
from haste_compiler.passes.pipeline import rewrite
from haste_compiler.runtime.stream import Stream
from haste_compiler.streams.reference import ReferenceStream, tile_sides


class StreamMaps:
    """The maps of the frames of a stream, by its definition in plain PyTorch: the code counts tiles, and keeps no list.

    It is called after the stream, with every frame that the stream was given, and takes about as long as the original.

    Args:
        model: the original.
        stream: a new one, which has seen no frame.
    """

    def __init__(self, model: nn.Module, stream: Stream) -> None:
        self._model, self._stream = model, stream
        self._reference: ReferenceStream | None = None
        self._nodes: dict[str, fx.Node] = {}
        self._plain = 0

    def __call__(self, frame: Tensor, image: int = 0) -> dict[str, WorkMap]:
        """By layer, 1 for each tile that the frame (N, C, H, W) took, 0 for each that was left as it is.

        Args:
            frame: the last one that the stream was given.
            image: of the batch.
        """
        stats = self._stream.stats()
        plainly, self._plain = stats.plain > self._plain, stats.plain
        if not plainly and all(layer.last == layer.tiles for layer in stats.layers.values()):
            # What is computed as a whole begins anew, at the first frame and where the stream refreshes.
            self._reference = self._begun(frame, {name: layer.side for name, layer in stats.layers.items()})
        assert self._reference is not None
        if not plainly:
            with torch.inference_mode():
                self._reference.run(frame)
        found = {}
        for name, layer in stats.layers.items():
            node = self._nodes[name]
            tiles = self._reference.listed[node.name][image]
            found[name] = _map(torch.ones_like(tiles) if plainly else tiles, layer.side, _plane(node))
        return found

    def _begun(self, frame: Tensor, sides: dict[str, int]) -> ReferenceStream:
        """The definition's stream, which begins with this frame."""
        with evaluation_mode(self._model):
            gm: fx.GraphModule = rewrite(capture(self._model, (frame,)))
        self._nodes = {layer_name(node): node for node in gm.graph.nodes if node.target in (CONV2D, CONV_TRANSPOSE2D)}
        return ReferenceStream(gm, tile_sides(sides), self._stream.tolerance, self._stream.pixel_tolerance)


def _plane(node: fx.Node) -> tuple[int, int]:
    """Height and width of what is cut into tiles; of a transposed convolution what it reads."""
    shown = node.all_input_nodes[0] if node.target is CONV_TRANSPOSE2D else node
    height, width = shape_of(shown)[2:]
    return height, width


def _map(listed: Tensor, side: int, plane: tuple[int, int]) -> WorkMap:
    share = listed.numpy().astype(np.float32)
    return WorkMap(share, "tiles", "reference", tile=(min(side, plane[0]), min(side, plane[1])), plane=plane)
