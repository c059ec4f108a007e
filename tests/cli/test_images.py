"""Images from folders, .npz files and nowhere."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from haste_compiler import InputError
from haste_compiler.cli.images import read_images

SHAPE = (2, 3, 20, 30)


def test_arrays(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).standard_normal((5, 3, 20, 30), np.float32)
    np.savez(tmp_path / "images.npz", images=pixels, labels=np.arange(5, dtype=np.uint8))
    found = read_images(str(tmp_path / "images.npz"), SHAPE, limit=3)
    np.testing.assert_array_equal(found.pixels.numpy(), pixels[:3])
    assert found.labels is not None and found.labels.tolist() == [0, 1, 2]
    assert [len(batch) for batch in found.batches(2)] == [2, 1]


def test_folder_of_classes(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow reads images")
    for number, name in enumerate(("cats", "dogs")):
        (tmp_path / name).mkdir()
        for index in range(3):
            image.new("RGB", (40 + 20 * index, 50), (255 * number, 0, 0)).save(tmp_path / name / f"{index}.png")
    found = read_images(str(tmp_path), SHAPE, limit=4)
    assert found.labels is not None and found.labels.tolist() == [0, 1, 0, 1] and found.pixels.shape == (4, 3, 20, 30)
    red, green = found.pixels[:, 0, 10, 15], found.pixels[:, 1, 10, 15]
    # The colours of torchvision's networks: (value - mean) / deviation.
    torch.testing.assert_close(red, torch.tensor([0.0, 1.0, 0.0, 1.0]).sub(0.485).div(0.229))
    torch.testing.assert_close(green, torch.full((4,), -0.456 / 0.224))


def test_labels_from_a_file(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow reads images")
    folder, labels = tmp_path / "images", tmp_path / "labels.txt"
    folder.mkdir()
    for name in ("a b.png", "c.png", "d.png"):
        image.new("RGB", (40, 50)).save(folder / name)
    labels.write_text("c.png,7\nother.png 3\n\na b.png 281\nd.png 0\n")
    found = read_images(str(folder), SHAPE, limit=9, labels=labels)
    assert found.labels is not None and found.labels.tolist() == [281, 7, 0]
    shares = [list(found.share(1, rank, 2)) for rank in range(2)]
    assert [[call[1].tolist() for call in share] for share in shares] == [[[281], [0]], [[7]]]
    for text, message in [
        ("c.png 7\n", "has no label for 2 of 3 images, such as a b.png"),
        ("c.png seven\n", "line 1: 'c.png seven' is not an image's name and its class's number"),
        ("7\n", "line 1: '7' is not"),
    ]:
        labels.write_text(text)
        with pytest.raises(InputError, match=message):
            read_images(str(folder), SHAPE, limit=9, labels=labels)
    with pytest.raises(InputError, match="--labels is for a folder"):
        read_images("random", SHAPE, limit=9, labels=labels)


def test_images_are_read_when_they_are_needed(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow reads images")
    image.new("RGB", (40, 50)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    calls = read_images(str(tmp_path), SHAPE, limit=9).batches(1)
    assert next(calls).shape == (1, 3, 20, 30)
    for name in ("b.png", "c.png"):
        with pytest.raises(InputError, match=f"{name} can't be read"):
            read_images(str(tmp_path), SHAPE, limit=9).read(1 + "bc".index(name[0]), 3)


def test_made_up() -> None:
    found = read_images("random", SHAPE, limit=2)
    assert found.pixels.shape == SHAPE and found.labels is None
    assert torch.equal(found.pixels, read_images("random", SHAPE, limit=2).pixels)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros((1, 3, 20, 30), np.float32)}, "must hold `images`, .* but holds none"),
        ({"images": np.zeros((1, 3, 20, 30), np.uint8)}, "but holds uint8"),
        ({"images": np.zeros((0, 3, 20, 30), np.float32)}, "but holds none"),
        ({"images": np.zeros((1, 1, 20, 30), np.float32)}, "holds images of 1x20x30, the network takes 3x20x30"),
        ({"images": np.zeros((3, 20, 30), np.float32)}, "holds images of 20x30, the network takes 3x20x30"),
        (
            {"images": np.zeros((2, 3, 20, 30), np.float32), "labels": np.zeros(2)},
            r"labels must be 2 integers, not float64 of shape \(2,\)",
        ),
    ],
)
def test_arrays_that_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "images.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_images(str(tmp_path / "images.npz"), SHAPE, limit=3)


def test_sources_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("a text")
    for source, message in [
        (tmp_path / "text.npz", "can't be read"),
        (tmp_path / "absent.npz", "can't be read"),
        (tmp_path / "absent", "allowed are a folder, an .npz file and random"),
        (tmp_path, "holds no images"),
    ]:
        with pytest.raises(InputError, match=message):
            read_images(str(source), SHAPE, limit=3)
    with pytest.raises(InputError, match="holds images of 3 channels, the network takes 1"):
        read_images(str(tmp_path), (2, 1, 20, 30), limit=3)
    with pytest.raises(InputError, match="images need a network that takes"):
        read_images("random", (2, 10), limit=3)
