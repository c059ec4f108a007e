"""The figures are drawn from what the definitions find."""

from pathlib import Path

import pytest
import torch

from docs.tools.figures import FIGURE, computed_tiles, draw, grouped_patch, page


def test_channels_of_a_group_are_alike_and_tiles_of_paper_are_copies() -> None:
    windows, slots = grouped_patch()
    groups = [windows[slots == slot].flatten(1) for slot in slots.unique() if (slots == slot).sum() > 1]
    assert groups and all(torch.nn.functional.cosine_similarity(each[:1], each).min() > 0.7 for each in groups)
    computed = computed_tiles(page())
    assert 0.1 < computed.float().mean() < 0.5 and not computed[100:110, 40:80].any()


def test_the_figure_is_small(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(tmp_path / "figure.png")
    assert 0 < (tmp_path / "figure.png").stat().st_size < 100_000 and FIGURE.is_file()
