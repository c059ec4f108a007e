"""What one tab of a browser looks at, and how it has turned the knobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from haste_compiler.watch.following import Following
from haste_compiler.watch.knobs import Knob
from haste_compiler.watch.network import Look, Watched
from haste_compiler.watch.scene import Scene, read_scene

STREAM_TOLERANCES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""That a stream is offered."""


@dataclass(frozen=True)
class Request:
    """A look that was asked for; what is turned after it doesn't change it.

    Attributes:
        frame: the image, (1, C, H, W).
        choice: of what is compiled in.
        values: of what is steered.
    """

    frame: Tensor
    choice: dict[str, Any]
    values: dict[str, Any]

    def look(self, watched: Watched) -> Look:
        """Do it; raises what ``Watched.look`` raises."""
        return watched.look(self.frame, self.choice, self.values)


class Session:
    """One tab's state. It computes nothing: it says what is to be computed.

    Args:
        watched: the network.
        scenes: to begin with, at least one.
        normalize: of files that are opened, see ``read_scene``.
    """

    def __init__(self, watched: Watched, scenes: Sequence[Scene], normalize: bool = True) -> None:
        self._watched, self._normalize = watched, normalize
        self.scenes = {scene.name: scene for scene in scenes}
        self.scene, self.number = scenes[0], 0
        self.choice, self.values = watched.start, dict[str, Any]()
        self.stream_tolerance = 0.05
        self._opened = ""

    @property
    def compiled_in(self) -> list[Knob]:
        """What takes a compilation to change."""
        return self._watched.compiled_in

    @property
    def knobs(self) -> list[Knob]:
        """What can be steered, of a network that was looked at with this choice."""
        return self._watched.knobs(self.choice)

    def open(self, name: str, data: bytes) -> None:
        """Look at a file's picture or video; raises what ``read_scene`` raises, and then nothing has changed."""
        scene = read_scene(name, data, self._watched.shape, self._normalize)
        # Of opened files one is kept: videos are large.
        self.scenes.pop(self._opened, None)
        self.scenes[name], self._opened = scene, name
        self.show(name)

    def show(self, name: str) -> None:
        """Look at another scene."""
        self.scene, self.number = self.scenes[name], 0

    def turn(self, knob: Knob, value: str) -> None:
        """Set a knob to what one of its values is called."""
        into = self.choice if knob in self.compiled_in else self.values
        into[knob.name] = knob.values[value]

    def request(self) -> Request:
        """The look at the frame that is shown, as the knobs are now."""
        return Request(self.scene.frame(self.number), dict(self.choice), dict(self.values))

    def follow(self) -> Following:
        """A stream on the scene's frames; raises what ``Following`` raises."""
        return Following(self._watched, self.scene, dict(self.choice), dict(self.values), self.stream_tolerance)
