"""The page: a session's state as widgets, and what was computed as pictures and texts."""

from __future__ import annotations

import base64
import binascii
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bokeh.core.templates import get_env
from bokeh.document import Document
from bokeh.models import Column, InlineStyleSheet
from bokeh.models.widgets import CategoricalSlider, Div, FileInput, Select, Slider, Toggle
from bokeh.palettes import Cividis

from haste_compiler.errors import HasteError, first_line
from haste_compiler.methods.work_map import WorkMap
from haste_compiler.watch import html
from haste_compiler.watch.figures import Course, Heat, Picture
from haste_compiler.watch.following import Following, FrameLook
from haste_compiler.watch.knobs import Knob, called
from haste_compiler.watch.network import Look, Watched
from haste_compiler.watch.scene import Scene
from haste_compiler.watch.session import STREAM_TOLERANCES, Session
from haste_compiler.watch.worker import Worker

log = logging.getLogger(__name__)

_TEMPLATE = Path(__file__).with_name("template.html")

_WIDGETS = """
:host { color: inherit; font: inherit; }
.bk-input-group, label, .bk-slider-title { color: inherit; font-size: 14px; }
.bk-input { background-color: transparent; color: inherit; max-width: 100%; }
.bk-input option { color: #1b1f24; background: #ffffff; }
"""
"""Widgets on a light page and on a dark one."""


def make_page(document: Document, watched: Watched, scenes: Sequence[Scene], worker: Worker, normalize: bool) -> None:
    """Fill a new tab's document.

    Args:
        document: it is filled.
        watched: the network.
        scenes: to begin with.
        worker: computes.
        normalize: see ``Session``.
    """
    page = _Page(document, Session(watched, scenes, normalize), watched, worker)
    document.title = f"{watched.name}: haste watch"
    document.template = get_env().from_string("{% extends base %}\n" + _TEMPLATE.read_text(encoding="utf-8"))
    document.template_variables.update(name=watched.name, palette=", ".join(Cividis[11]))
    document.on_session_destroyed(lambda context: worker.drop(page))
    page.look()


class _Page:
    """One tab. Its methods run on the server's own thread, but for what the worker is given."""

    def __init__(self, document: Document, session: Session, watched: Watched, worker: Worker) -> None:
        self._document, self._session, self._watched, self._worker = document, session, watched, worker
        self._maps: Mapping[str, WorkMap] = {}
        self._look: Look | None = None
        self._following: Following | None = None
        self._spent: list[tuple[float, float]] = []
        size = (watched.shape[2], watched.shape[3])
        sheet = InlineStyleSheet(css=_WIDGETS)
        self._styled: dict[str, Any] = {"stylesheets": [sheet], "sizing_mode": "stretch_width"}
        text = {"stylesheets": [InlineStyleSheet(css=html.STYLE)], "sizing_mode": "stretch_width"}
        self._message = Div(name="message", **text)
        self._numbers, self._prediction = Div(name="numbers", **text), Div(name="prediction", **text)
        self._picture, self._heat, self._course = Picture("picture", size), Heat("heat", size), Course("course")
        self._course.figure.visible = False
        self._output: Picture | None = None
        made = Div(text="<h2>What it makes</h2>", **text)
        self._below = Column(made, name="output", sizing_mode="stretch_width", visible=False)
        self._file = FileInput(
            title="an image or a video: choose a file, or drop it here", accept="image/*,video/*", **self._styled
        )
        self._scene = Select(title="or an example", name="scene", **self._styled)
        self._layer = Select(title="layer that is mapped", name="layer", options=[], **self._styled)
        self._frame = Slider(title="frame", name="frame", start=0, end=1, value=0, step=1, **self._styled)
        tolerances = [called(each) for each in STREAM_TOLERANCES]
        self._tolerance = CategoricalSlider(
            title="tolerance of the stream",
            name="stream tolerance",
            categories=tolerances,
            value=called(session.stream_tolerance),
            **self._styled,
        )
        self._play = Toggle(label="play as a stream", name="play", button_type="primary", **self._styled)
        self._controls = Column(name="controls", sizing_mode="stretch_width")
        self._turned: list[Knob] = []
        self._show_controls([])
        self._show_scene()
        # The file's name comes in the same message, behind its content.
        self._file.on_change("value", lambda attr, old, new: self._later(self._open))
        self._scene.on_change("value", lambda attr, old, new: self._choose_scene(new))
        self._layer.on_change("value", lambda attr, old, new: self._show_map())
        self._frame.on_change("value", lambda attr, old, new: self._choose_frame(new))
        self._tolerance.on_change("value", lambda attr, old, new: self._set_tolerance(float(new)))
        self._play.on_change("active", lambda attr, old, new: self._start() if new else self._stop())
        parts = (self._message, self._controls, self._picture.figure, self._heat.figure, self._below)
        for root in (*parts, self._numbers, self._prediction, self._course.figure):
            document.add_root(root)

    def look(self) -> None:
        """Have the frame that is shown computed with what is turned now."""
        request = self._session.request()
        self._message.text = html.note("computing …")

        def job() -> None:
            look = request.look(self._watched)
            self._later(self._show, look, self._watched.lacks_maps(look))
            if self._watched.lacks_maps(look):
                more = self._watched.with_reference_maps(look, request.frame, request.choice, request.values)
                self._later(self._show, more, False)

        self._submit(job)

    def _submit(self, job: Callable[[], None]) -> None:
        """Have the worker do a job, and say on the page what goes wrong."""

        def guarded() -> None:
            try:
                job()
            except HasteError as error:
                self._later(self._fail, str(error))
            except Exception as error:
                log.exception("haste watch")
                self._later(self._fail, f"{type(error).__name__}: {first_line(error)}; the terminal has more")

        self._worker.submit(self, guarded)

    def _later(self, show: Callable[..., None], *args: Any) -> None:
        """Call on the server's thread; a tab that is closed meanwhile shows nothing."""
        self._document.add_next_tick_callback(functools.partial(show, *args))

    def _fail(self, text: str) -> None:
        self._message.text = html.error(text)
        self._stop()

    def _show(self, look: Look, is_partial: bool) -> None:
        """Show what was computed."""
        self._look, self._maps = look, look.maps
        self._show_controls(self._session.knobs)
        self._message.text = html.note("looking where it worked …") if is_partial else ""
        self._prediction.text = html.prediction(look.prediction)
        self._show_output(look.prediction.picture)
        self._show_layers()
        self._show_map()

    def _show_controls(self, knobs: Sequence[Knob]) -> None:
        """Lay the controls out; those that change nothing aren't there."""
        turned = [*self._session.compiled_in, *knobs]
        is_video = self._session.scene.is_video
        wanted = [self._file, self._scene]
        if turned != self._turned:
            self._turned = turned
            self._sliders = [self._slider(knob) for knob in turned]
        own = self._sliders if turned else []
        video = [self._frame, self._tolerance, self._play] if is_video else []
        layer = [self._layer] if self._layer.options else []
        self._controls.children = [*wanted, *own, *layer, *video]

    def _slider(self, knob: Knob) -> Any:
        values = {**self._session.choice, **self._session.values}
        value = values.get(knob.name, knob.values[knob.start])
        at = next((name for name, each in knob.values.items() if each == value), knob.start)
        made = CategoricalSlider(
            title=knob.title, name=knob.name, categories=list(knob.values), value=at, **self._styled
        )
        made.on_change("value", lambda attr, old, new: self._turn(knob, new))
        return made

    def _turn(self, knob: Knob, value: str) -> None:
        self._session.turn(knob, value)
        self._stop()
        self.look()

    def _open(self) -> None:
        name = str(self._file.filename)
        try:
            self._session.open(name, base64.b64decode(str(self._file.value), validate=True))
        except (HasteError, binascii.Error) as error:
            self._fail(str(error))
            return
        self._begin_scene()

    def _choose_scene(self, name: str) -> None:
        # A scene that was shown by other means is computed already.
        if name != self._session.scene.name:
            self._session.show(name)
            self._begin_scene()

    def _begin_scene(self) -> None:
        """Show a scene that is new, and have it computed."""
        self._stop()
        self._show_scene()
        self.look()

    def _show_scene(self) -> None:
        """Show a scene that is new."""
        scene = self._session.scene
        self._scene.options = list(self._session.scenes)
        self._frame.update(end=max(1, len(scene.frames) - 1), value=0)
        self._course.clear(len(self._session.scene.frames))
        self._course.figure.visible = scene.is_video
        self._picture.show(scene.shown[0])
        self._heat.show(scene.shown[0], None)
        self._show_controls(self._turned[len(self._session.compiled_in) :])
        self._scene.value = scene.name

    def _choose_frame(self, number: int) -> None:
        if self._following is not None or number == self._session.number:
            return
        self._session.number = number
        self._picture.show(self._session.scene.shown[number])
        self.look()

    def _show_output(self, picture: Any) -> None:
        """Show an output that is an image; of another there is nothing to show."""
        self._below.visible = picture is not None
        if picture is None:
            return
        if self._output is None:
            self._output = Picture("made", picture.shape[:2])
            self._below.children = [*self._below.children, self._output.figure]
        self._output.show(picture)

    def _show_layers(self) -> None:
        """Offer the layers that there are maps of."""
        names = list(self._maps)
        if names != self._layer.options:
            self._layer.options = names
            if self._layer.value not in names:
                self._layer.value = names[0] if names else ""
            self._show_controls(self._turned[len(self._session.compiled_in) :])

    def _show_map(self) -> None:
        """Show where the chosen layer worked."""
        self._heat.show(self._session.scene.shown[self._session.number], self._maps.get(self._layer.value))
        if self._look is not None and self._following is None:
            self._numbers.text = html.numbers(self._look, self._layer.value)

    def _set_tolerance(self, value: float) -> None:
        self._session.stream_tolerance = value
        if self._following is not None:
            self._start()

    def _start(self) -> None:
        """Play the video as a stream, from its first frame."""
        try:
            self._following = self._session.follow()
        except HasteError as error:
            self._fail(str(error))
            return
        self._spent = []
        self._course.clear(len(self._session.scene.frames))
        self._message.text = html.note("compiling the stream …")
        self._next(self._following)

    def _next(self, following: Following) -> None:
        """Have the next frame computed."""
        self._submit(lambda: self._later(self._show_frame, following, following.step()))

    def _show_frame(self, following: Following, look: FrameLook) -> None:
        """Show what the stream did; if it is still wanted."""
        if following is not self._following:
            return
        # The first frame is computed as a whole.
        self._spent = [*(self._spent if look.number > 1 else []), (look.seconds, look.dense_seconds)]
        seconds, dense = (sum(each) / len(self._spent) for each in zip(*self._spent, strict=True))
        self._session.number, self._frame.value = look.number, look.number
        self._maps = look.maps
        self._message.text = ""
        self._picture.show(self._session.scene.shown[look.number])
        self._numbers.text = html.frame(look, seconds, dense)
        self._prediction.text = html.prediction(look.prediction)
        self._show_output(look.prediction.picture)
        self._course.add(look.number, look.work)
        self._show_layers()
        self._show_map()
        if following.is_done:
            self._stop()
        else:
            self._next(following)

    def _stop(self) -> None:
        """Play no more; what was shown last stays."""
        self._following = None
        self._play.active = False
