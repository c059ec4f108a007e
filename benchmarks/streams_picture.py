"""Which tiles of a frame a stream computed, drawn over it: by the definition, which knows them by their places."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haste_compiler.cost.images import dead_leaves
from haste_compiler.graph.capture import capture
from haste_compiler.passes.pipeline import rewrite
from haste_compiler.streams.reference import ReferenceStream

TOLERANCE = 0.2
SIDE = 4


def scene(size: tuple[int, int], count: int) -> list[Tensor]:
    """Frames (1, 3, H, W), mean 0 and variance 1, of a made-up scene that stands still, in which two squares move."""
    background = dead_leaves((1, 3, *size), seed=3)
    squares = dead_leaves((1, 3, size[0] // 4, size[0] // 4), seed=8)
    side, made = squares.shape[2], []
    for number in range(count):
        frame = background.clone()
        for top, left in ((size[0] // 8, size[1] // 8 + 3 * number), (size[0] // 2, size[1] * 3 // 4 - 4 * number)):
            frame[:, :, top : top + side, left : left + side] = squares
        made.append(frame)
    return made


def draw(model: nn.Module, video: Sequence[Tensor], path: Path) -> None:
    """Draw the last frame, and the tiles of it that the first, a middle and the last convolution by tiles computed.

    Args:
        model: with convolutions of which a part can be computed.
        video: frames (1, 3, H, W) as the model takes them, mean 0 and variance 1.
        path: of the file, such as "tiles.png".
    """
    import matplotlib.pyplot as plt

    reference = ReferenceStream(rewrite(capture(model, (video[0],))), _side, TOLERANCE, TOLERANCE / 2)
    with torch.inference_mode():
        for frame in video:
            reference.run(frame)
    shown = (video[-1][0].permute(1, 2, 0) / 5 + 0.5).clamp(0, 1).mul(255).numpy().astype(np.uint8)
    names = list(reference.listed)
    chosen = [names[0], names[len(names) // 2], names[-1]]
    figure, axes = plt.subplots(1, len(chosen), figsize=(12, 3.4), dpi=80, layout="constrained")
    for axis, name in zip(axes, chosen, strict=True):
        tiles = reference.listed[name][:1, None].float()
        mask = F.interpolate(tiles, shown.shape[:2], mode="nearest")[0, 0].numpy()[..., None]
        axis.imshow((shown * (0.35 + 0.65 * mask)).astype(np.uint8))
        place = ("first", "middle", "last")[chosen.index(name)]
        axis.set_title(f"{place} layer by tiles: {tiles.mean():.0%} of them computed", fontsize=9)
        axis.axis("off")
    figure.savefig(path)
    plt.close(figure)


def _side(node: torch.fx.Node) -> int | None:
    size = node.meta["val"].shape[2:]
    return SIDE if size.numel() >= 64 else None
