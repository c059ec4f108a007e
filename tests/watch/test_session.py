"""A tab's state without a browser: what can be turned, what a look counts, and which files are refused."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from haste_compiler import HasteConfig
from haste_compiler.demo import load_network
from haste_compiler.errors import InputError
from haste_compiler.watch.network import Watched
from haste_compiler.watch.scene import MOST_FRAMES, Scene, made_up, most_frames, read_scene
from haste_compiler.watch.session import Session

SHAPE = (1, 1, 32, 32)


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    config = HasteConfig(cost_model=False, tolerance=0.3)
    yield Watched("digits", load_network(), SHAPE, config=config, threads=1)


@pytest.fixture
def session(watched: Watched) -> Session:
    return Session(watched, made_up(SHAPE))


def _png(height: int, width: int) -> bytes:
    image = pytest.importorskip("PIL.Image", reason="Pillow isn't installed")
    file = io.BytesIO()
    image.fromarray(np.full((height, width, 3), 200, np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_what_can_be_steered_is_offered_with_the_networks_own_value(session: Session) -> None:
    knobs = {knob.name: knob for knob in session.knobs}
    assert {"tolerance", "num_hyperplanes", "flat_tolerance"} <= set(knobs)
    assert knobs["tolerance"].start == "0.3" and knobs["tolerance"].values["off"] is None
    assert "int8" in next(knob for knob in session.compiled_in if knob.name == "precision").values


def test_turning_the_tolerance_changes_work_and_nothing_of_another_tab(watched: Watched, session: Session) -> None:
    other = Session(watched, made_up(SHAPE))
    before = session.request().look(watched)
    knob = next(each for each in session.knobs if each.name == "tolerance")
    session.turn(knob, "1")
    loose = session.request().look(watched)
    assert before.kept is not None and loose.kept is not None
    assert loose.macs.spent < before.macs.spent and loose.kept < before.kept
    assert other.request().look(watched).macs == before.macs


def test_maps_add_up_to_what_was_kept(watched: Watched, session: Session) -> None:
    look = session.request().look(watched)
    assert look.maps and set(look.maps) <= set(look.stats)
    for name, work in look.maps.items():
        assert work.over((32, 32)).min() >= 0 and work.over((32, 32)).max() <= 1, name


def test_int8_is_another_compilation(watched: Watched, session: Session) -> None:
    session.turn(next(each for each in session.compiled_in if each.name == "precision"), "int8")
    look = session.request().look(watched)
    expected = watched.model(session.request().frame)
    assert 0 < look.prediction.error < 0.1
    assert look.prediction.ranks[0].name == f"class {int(expected.argmax())}"


def test_a_stream_recomputes_little_of_a_part_that_moves(session: Session) -> None:
    session.show("made-up video")
    following = session.follow()
    first, second = following.step(), following.step()
    assert first.number == 0 and second.number == 1
    assert second.computed < second.tiles and 0 < second.work < 1


def test_a_file_is_read_scaled_and_cut() -> None:
    scene = read_scene("white.png", _png(48, 80), SHAPE)
    assert scene.frames.shape == SHAPE and not scene.is_video
    assert torch.allclose(scene.frames, torch.tensor(2 * 200 / 255 - 1))
    coloured = read_scene("white.png", _png(48, 80), (1, 3, 16, 24))
    assert coloured.frames.shape == (1, 3, 16, 24)


@pytest.mark.parametrize(
    ("data", "shape", "message"),
    [
        (b"nothing of the kind", SHAPE, "broken.png is neither an image nor a video"),
        (b"", SHAPE, "neither an image nor a video"),
        (b"x", (1, 4, 8, 8), "the network takes 4"),
        (bytes(65 << 20), SHAPE, "has 68 MB: allowed are 67"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(data: bytes, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_scene("broken.png", data, shape)


def test_a_file_that_fails_leaves_the_tab_as_it_was(session: Session) -> None:
    before = session.scene
    with pytest.raises(InputError):
        session.open("broken.png", b"nothing of the kind")
    assert session.scene is before and list(session.scenes) == ["made-up image", "made-up video"]


def test_of_opened_files_one_is_kept(session: Session) -> None:
    session.open("one.png", _png(32, 32))
    session.open("two.png", _png(32, 32))
    assert list(session.scenes) == ["made-up image", "made-up video", "two.png"]
    assert isinstance(session.scene, Scene) and session.scene.name == "two.png"


def test_videos_are_limited_by_what_they_hold() -> None:
    assert most_frames((1, 3, 32, 32)) == MOST_FRAMES
    assert most_frames((1, 3, 2000, 2000)) == (64 << 20) // (3 * 2000 * 2000)


def test_a_network_of_several_images_a_call_is_refused() -> None:
    with pytest.raises(InputError, match="a picture is 1xCxHxW, and digits takes 2x1x32x32"):
        Watched("digits", load_network(), (2, 1, 32, 32))
