"""Draws ``docs/figures/redundancy.png``, by the methods' definitions: ``python -m docs.tools.figures``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from haste_compiler import HasteConfig
from haste_compiler.demo import held_out_digits, load_network
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.flat.reference.pixels import label_image
from haste_compiler.methods.flat.reference.tiles import Tiling, holders_of
from haste_compiler.methods.haste.reference.module import HasteConv2d

FIGURE = Path(__file__).resolve().parents[1] / "figures" / "redundancy.png"

LAYER = "blocks.0.conv1"
"""Of the carried network; it reads 64 channels."""


def grouped_patch() -> tuple[Tensor, Tensor]:
    """The windows (C, h, w) of a patch in the middle of a digit, and each channel's slot (C,); -1: dropped."""
    network, digits = load_network(), held_out_digits()[0]
    conv = network.get_submodule(LAYER)
    seen: list[Tensor] = []
    handle = conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(digits[:1])
    handle.remove()
    layer = HasteConv2d.from_conv(conv, HasteConfig(patch_size=8), LAYER)  # type: ignore[arg-type]
    slots = layer.analyse(seen[0])[0].groups.slot
    row, column = slots.shape[1] // 2, slots.shape[2] // 2
    top, left = 8 * row - 1, 8 * column - 1
    return seen[0][0, :, top : top + 10, left : left + 10], slots[0, row, column]


def page(side: int = 128) -> Tensor:
    """A page of text in black and white, (3, side, side)."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (side, side), 255)
    draw = ImageDraw.Draw(image)
    for line, text in enumerate(
        ("Even areas of a page", "are computed once.", "", "Tiles that read what", "others read are copies.")
    ):
        draw.text((4, 8 + 14 * line), text, fill=0)
    draw.rectangle((8, 90, side - 9, side - 10), outline=0)
    return torch.tensor(np.asarray(image), dtype=torch.float32).div(255).expand(3, -1, -1).contiguous()


def computed_tiles(image: Tensor) -> Tensor:
    """Which pixels (H, W) of a 3×3 convolution's outputs lie in tiles that are no copies of others."""
    size = (image.shape[1], image.shape[2])
    tiling = Tiling(ConvGeometry(3, 8, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, size, (1, 1)))
    keys = tiling.windows(label_image(image))
    holders = torch.tensor(holders_of(keys, [True] * len(keys)))
    return (holders == torch.arange(len(keys)))[tiling.owners.long()]


def draw(path: Path) -> None:
    """Draw the figure."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with torch.inference_mode():
        windows, slots = grouped_patch()
        image = page()
        computed = computed_tiles(image)
    figure = plt.figure(figsize=(10, 4.6), dpi=90, layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False)[0]
    merged = int(len(slots) - (slots < 0).sum() - len(slots[slots >= 0].unique()))
    dropped = int((slots < 0).sum())
    left.suptitle(
        f"One patch, {len(slots)} channels: {merged} merge into others of their colour, {dropped} dropped", fontsize=9
    )
    _draw_channels(left, windows, slots)
    right.suptitle(f"A page, tiles of 4×4: {computed.float().mean():.0%} computed (dark copies aren't)", fontsize=9)
    axis = right.subplots()
    shown = image[0] * torch.where(computed, 1.0, 0.55)
    axis.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=1)
    axis.axis("off")
    figure.savefig(path)
    plt.close(figure)


def _draw_channels(figure: Any, windows: Tensor, slots: Tensor) -> None:
    """A grid of the channels, ordered by group, in a frame of the group's colour; grey: alone; faint: dropped."""
    import matplotlib.pyplot as plt

    groups = [slot for slot in slots.unique().tolist() if slot >= 0 and int((slots == slot).sum()) > 1]
    colours = dict(zip(groups, plt.get_cmap("tab20").colors * 8, strict=False))  # type: ignore[attr-defined]
    order = sorted(
        range(len(slots)), key=lambda each: (int(slots[each]) not in colours, int(slots[each]) < 0, int(slots[each]))
    )
    for axis, channel in zip(figure.subplots(8, -(-len(slots) // 8)).flat, order, strict=False):
        slot = int(slots[channel])
        axis.imshow(windows[channel].numpy(), cmap="gray", alpha=0.25 if slot < 0 else 1.0)
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set(color=colours.get(slot, "lightgray"), linewidth=3 if slot in colours else 0.5)


if __name__ == "__main__":
    draw(FIGURE)
