"""The definition: what labels promise, and how far outputs may move."""

import torch

from haste_compiler.graph.geometry import window_geometry
from haste_compiler.methods.flat.labels import HEADS, MOST_VALUES, UNKNOWN
from haste_compiler.methods.flat.reference.pixels import label_image
from haste_compiler.methods.flat.reference.tiles import copy_tiles
from tests.methods.flat.images import even_images


def test_pixels_of_one_label_hold_the_same_bits_and_others_do_not() -> None:
    x = even_images(1, 3, 20, 22)[0]
    labels = label_image(x).flatten()
    pixels = x.flatten(1).T
    assert torch.equal(pixels[labels.long()], pixels)
    assert len(labels.unique()) == len(pixels.unique(dim=0)) < len(labels) / 4


def test_an_image_without_even_areas_has_no_labels() -> None:
    assert label_image(torch.randn(3, 9, 9))[0, 0] == UNKNOWN


def test_of_too_many_values_only_neighbours_are_alike() -> None:
    values = torch.arange(MOST_VALUES + 40.0).repeat_interleave(2)
    labels = label_image(torch.cat([values, values]).view(1, 2, -1))
    assert torch.equal(labels[0, 0::2], labels[0, 1::2]) and torch.equal(labels[1, 0::2], labels[1, 1::2])
    assert torch.equal(labels[0, : 2 * MOST_VALUES], labels[1, : 2 * MOST_VALUES])
    assert not torch.isin(labels[0, 2 * MOST_VALUES :], labels[1, 2 * MOST_VALUES :]).any()


def test_nothing_changes_without_tolerance_and_labels_are_right() -> None:
    x = even_images(1, 5, 27, 23)
    geometry = window_geometry(5, (27, 23), ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (1, 1)), 7)
    y = torch.conv2d(x.double(), torch.randn(7, 5, 3, 3).double(), padding=1)[0]
    result = copy_tiles(y, label_image(x[0]), None, geometry, 0.0)
    torch.testing.assert_close(result.y, y, rtol=0, atol=1e-12)
    assert result.computed < 42 / 2 and result.moved == 0
    first = {int(label): number for number, label in reversed(list(enumerate(result.labels.flatten())))}
    sources = torch.tensor([first[int(label)] for label in result.labels.flatten()])
    assert torch.equal(result.y.flatten(1)[:, sources], result.y.flatten(1))


def test_a_tile_moves_by_no_more_than_the_tolerance_of_a_frequent_one() -> None:
    """Tiles of one value each: the frequent ones, and some that are near one, just too far, and near a rare one."""
    values = torch.tensor([1.0] * 6 + [2.0] * 5 + [3.0] * 4 + [4.0] * 2 + [1.009, 1.02, 2.99, 4.001])
    labels = values.repeat_interleave(4).repeat(4, 1)
    geometry = window_geometry(1, tuple(labels.shape), ((1, 1), (1, 1), (0,) * 4, (1, 1), 1, (1, 1)), 1)
    result = copy_tiles(labels[None], (labels * 1000).int(), None, geometry, 0.01)
    expected = values.clone()
    expected[-4], expected[-2] = 1.0, 3.0
    assert HEADS == 3 and torch.equal(result.y[0, 0, ::4], expected)
    assert (result.computed, result.moved) == (8, 2)
    assert abs(result.step - 4 * (0.009**2 + 0.01**2) ** 0.5) < 1e-3
    assert result.labels[0, 0] == result.labels[0, 17 * 4] != result.labels[0, 18 * 4]
