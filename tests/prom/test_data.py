"""Images in all the forms that training reads them in."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from haste_compiler.errors import InputError
from haste_compiler.prom.data import Labelled, normalized, read_data

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

PIXELS = np.random.RandomState(0).randint(0, 256, (6, 12, 12, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def encoded(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def arrays(path: Path, **other: np.ndarray) -> str:
    np.savez(path, allow_pickle=False, **{"images": PIXELS, "labels": LABELS, **other})
    return str(path)


def files(path: Path) -> str:
    parts = [encoded(image) for image in PIXELS]
    offsets = np.cumsum([0, *map(len, parts)])
    np.savez(path, data=np.frombuffer(b"".join(parts), np.uint8), offsets=offsets, labels=LABELS)
    return str(path)


def folder(path: Path) -> str:
    for number, (image, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        (path / f"class{label}").mkdir(parents=True, exist_ok=True)
        (path / f"class{label}" / f"{number}.png").write_bytes(encoded(image))
    return str(path)


def test_arrays_files_in_an_array_and_folders_hold_the_same(tmp_path: Path) -> None:
    train, test = read_data(arrays(tmp_path / "a.npz"), files(tmp_path / "b.npz"), 32)
    in_folders, _ = read_data(folder(tmp_path / "c"), folder(tmp_path / "c"), 12)
    expected = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    for each in (train, test, in_folders):
        assert each.pixels.dtype == torch.uint8 and torch.equal(each.pixels, expected)
        assert each.labels.tolist() == LABELS.tolist() and each.classes == 3 and each.side == 12


def test_a_folders_images_are_scaled(tmp_path: Path) -> None:
    train, _ = read_data(folder(tmp_path / "c"), folder(tmp_path / "c"), 8)
    assert train.pixels.shape == (6, 3, 8, 8)


def test_digits_come_in_two_parts() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn, which carries the digits, is not installed")
    train, test = read_data("digits", None, 32)
    assert train.pixels.shape == (1437, 1, 32, 32) and test.pixels.shape == (360, 1, 32, 32) and not train.mirrored
    least, largest = normalized(train.pixels).aminmax()
    assert (float(least), float(largest)) == (-1.0, 1.0)


def test_resized_keeps_means() -> None:
    data = Labelled(torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8), torch.arange(9), True)
    small = data.resized(16)
    assert small.pixels.shape == (9, 3, 16, 16) and small.pixels.dtype == torch.uint8
    apart = small.pixels.float().mean((1, 2, 3)) - data.pixels.float().mean((1, 2, 3))
    assert apart.abs().max() < 1.5


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    good = arrays(tmp_path / "a.npz")
    (tmp_path / "broken.npz").write_bytes(b"no")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "x.png").write_bytes(encoded(PIXELS[0]))
    bad = {
        "digits has its own test images": ("digits", good),
        "give a second source": (good, None),
        r"broken\.npz can't be read": (str(tmp_path / "broken.npz"), good),
        "allowed are an .npz file, a folder": (str(tmp_path / "absent"), good),
        "one folder of images a class": (str(tmp_path / "flat"), good),
        r"it has float64 \(6, 12, 12, 3\)": (arrays(tmp_path / "f.npz", images=PIXELS / 255), good),
        "must hold `labels`, 6 integers": (arrays(tmp_path / "l.npz", labels=LABELS[:5]), good),
        "allowed are equal ones": (arrays(tmp_path / "s.npz", images=PIXELS[:, :8, :8]), good),
        "has 9 classes": (good, arrays(tmp_path / "c.npz", labels=LABELS + 6)),
    }
    for message, (train, test) in bad.items():
        with pytest.raises(InputError, match=message):
            read_data(train, test, 12)
