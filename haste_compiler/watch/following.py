"""A stream that follows a video, frame by frame, beside the dense network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from haste_compiler.methods.work_map import WorkMap
from haste_compiler.report.stream_maps import StreamMaps
from haste_compiler.validation.timing import use_threads
from haste_compiler.watch.network import Settings, Watched
from haste_compiler.watch.prediction import Prediction, predict
from haste_compiler.watch.scene import Scene


@dataclass(frozen=True)
class FrameLook:
    """What a stream did with one frame.

    Attributes:
        number: of the frame, from 0.
        prediction: by the stream and by the dense network.
        seconds, dense_seconds: of the one call.
        work: multiply-adds of the tiles that were computed over those of all, of the layers that have tiles.
        tiles, computed: of all layers together.
        maps: by layer, 1 for each tile that was computed.
    """

    number: int
    prediction: Prediction
    seconds: float
    dense_seconds: float
    work: float
    tiles: int
    computed: int
    maps: Mapping[str, WorkMap]


class Following:
    """A stream on the frames of a video, one after the other.

    Args:
        watched: the network.
        scene: the video.
        choice: of what is compiled in.
        values: of what is steered.
        tolerance: of the stream.

    Raises:
        ConfigError: the tolerance is negative.
    """

    def __init__(self, watched: Watched, scene: Scene, choice: Settings, values: Settings, tolerance: float) -> None:
        self._watched, self._scene, self._choice, self._values = watched, scene, choice, values
        compiled = watched.prepare(choice)
        self._stream = compiled.stream(tolerance=tolerance)
        self._maps = StreamMaps(watched.model, self._stream)
        self._number = 0

    @property
    def is_done(self) -> bool:
        """Whether there is no further frame."""
        return self._number == len(self._scene.frames)

    def step(self) -> FrameLook:
        """Run the stream and the dense network on the next frame.

        Raises:
            UnsupportedOperatorError: the network has no convolution of which a part could be computed.
        """
        compiled = self._watched.steered(self._choice, self._values)
        frame, number = self._scene.frame(self._number), self._number
        with use_threads(compiled.threads):
            if number == 0:
                # The first call makes the code.
                self._stream(frame)
                self._stream.reset()
            start = time.perf_counter()
            outputs = self._stream(frame)
            middle = time.perf_counter()
            dense = compiled.dense(frame)
            end = time.perf_counter()
        stats = self._stream.stats()
        self._number += 1
        return FrameLook(
            number,
            predict(outputs, dense, self._watched.labels),
            middle - start,
            end - middle,
            stats.last_work,
            sum(layer.tiles for layer in stats.layers.values()),
            sum(layer.last for layer in stats.layers.values()),
            self._maps(frame),
        )
