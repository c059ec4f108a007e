"""`haste stream` on videos of every kind: what it prints, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from haste_compiler import InputError
from haste_compiler.cli.video import VideoSource
from tests.cli.conftest import Haste

SIZE = (32, 40)

NETWORK = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1))

def grey():
    return nn.Conv2d(1, 8, 3)
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("networks") / "nets.py"
    path.write_text(NETWORK)
    return f"{path}:small"


def pictures(count: int) -> list[np.ndarray[Any, Any]]:
    """A small square walks over a still picture (64, 80)."""
    still = np.kron(np.random.default_rng(0).integers(0, 255, (8, 10, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    made = []
    for place in range(count):
        picture = still.copy()
        picture[20:28, 8 * place : 8 * place + 8] = (255, 0, 255)
        made.append(picture)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = pytest.importorskip("PIL.Image", reason="Pillow reads images")
    path = tmp_path_factory.mktemp("frames")
    for number, picture in enumerate(pictures(5)):
        image.fromarray(picture).save(path / f"{number:03}.png")
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures, coded by PyAV."""
    av = pytest.importorskip("av", reason="PyAV writes and reads videos")
    path = tmp_path_factory.mktemp("video") / "walk.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 80, 64, "yuv420p", 4_000_000
        for picture in pictures(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def run(haste: Haste, *arguments: object) -> tuple[dict[str, Any], str]:
    code, out, err = haste("stream", *arguments, "--threads", 1, "--preset", "dense", "--json")
    assert code == 0, err
    return json.loads(out), err


def test_folder(haste: Haste, network: str, folder: Path) -> None:
    found, err = run(haste, network, folder, "--size", "32x40", "--tolerance", 0, "--compare")
    assert "for frames of 1x3x32x40" in err
    assert found["frames"] == 5 and found["shape"] == [1, 3, 32, 40] and found["kept_bytes"] > 0
    assert 0 < found["last_work"] < found["work"] < 1
    assert [layer["name"] for layer in found["layers"]] == ["0", "2"]
    assert found["dense"]["largest_error"] == 0 and found["dense"]["times"]["best"] > 0
    assert found["times"]["best"] <= found["times"]["median"]


def test_video(haste: Haste, network: str, video: Path) -> None:
    found, _ = run(haste, network, video, "--size", "32x40", "--tolerance", 0.3, "--frames", 4)
    assert found["frames"] == 4 and 1 / 4 < found["work"] < 1 and "dense" not in found
    code, out, _ = haste("stream", network, video, "--size", "32x40", "--compare", "--threads", 1)
    assert code == 0 and out.startswith("5 frames of 3x32x40, tolerance 0.05, threads: 1")
    for said in ("frames a second; the first", "of dense", "on average", "Layers", "of the multiply-adds"):
        assert said in out


def test_saved_network(haste: Haste, network: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.haste"
    code, _, err = haste(
        "compile", network, "--input", "1x3x32x40", "--streams", "--threads", 1, "--preset", "dense", "-o", path
    )
    assert code == 0, err
    fresh, _ = run(haste, network, folder, "--size", "32x40", "--tolerance", 0.1)
    code, out, err = haste("stream", path, folder, "--tolerance", 0.1, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["layers"] == fresh["layers"] and found["work"] == fresh["work"]
    code, _, err = haste("stream", path, folder, "--size", "40x32")
    assert code == 2 and "was saved for inputs of shape 1x3x32x40, and for none of --size" in err
    code, _, err = haste("stream", path, folder, "--preset", "dense")
    assert code == 2 and "is compiled already: it doesn't go with --preset" in err


def test_frames_are_those_of_the_video(video: Path, folder: Path) -> None:
    files, coded = (list(VideoSource(str(source), None, False).frames(SIZE)) for source in (folder, video))
    assert len(files) == len(coded) == 5 and all(frame.shape == (1, 3, *SIZE) for frame in (*files, *coded))
    for number, (file, frame) in enumerate(zip(files, coded, strict=True)):
        # Coding loses a little; other frames differ by the square's whole way.
        assert (file - frame).abs().mean() < 0.05
        square = torch.tensor([1.0, 0.0, 1.0])[:, None]
        torch.testing.assert_close(file[0, :, 12, 4 * number + 2], square[:, 0], rtol=0, atol=1e-6)


def test_refused(haste: Haste, network: str, folder: Path, tmp_path: Path) -> None:
    grey = network.replace(":small", ":grey")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    wanted = ("--size", "32x40", "--threads", 1)
    for arguments, message in [
        ((network, tmp_path / "absent.mp4", *wanted), "there is no video"),
        ((network, tmp_path / "empty", *wanted), "holds no images"),
        ((network, folder, "--size", "32"), "'32' is no height and width, such as 224x288"),
        ((network, folder, "--tolerance", -1, *wanted), "is not in the range x>=0"),
        ((network, folder), "what is the network called with?"),
        ((grey, folder, "--input", "1x1x32x40"), "a frame is 1x3xHxW, and the network takes 1x1x32x40"),
        ((network, folder, "--input", "1x3x32x40", *wanted), "--size says what a frame is"),
        ((tmp_path / "absent.haste", folder), "there is no file"),
    ]:
        code, out, err = haste("stream", *arguments)
        assert code == 2 and not out and message in err


def test_damaged_videos_and_cameras_that_are_not_there(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV reads videos")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"text\.mp4 can't be read: .*Invalid data"):
        next(VideoSource(str(tmp_path / "text.mp4"), None, True).frames(SIZE))
    with pytest.raises(InputError, match=r"/dev/video97 can't be read"):
        next(VideoSource("97", None, True).frames(SIZE))
