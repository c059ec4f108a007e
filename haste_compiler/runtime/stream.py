"""``Stream``: frames of a camera, of which only what changed is computed anew. It needs no PyTorch of its own."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tvm

from haste_compiler.codegen.stream_plan import StreamLayer, StreamPlan
from haste_compiler.errors import ConfigError, HasteError, InputError
from haste_compiler.forking import Lock
from haste_compiler.runtime.executable import Executable

_ALL = -1.0
"""A tolerance that every tile exceeds."""

_OF_PIXELS = 0.5
"""Tolerance of a frame's pixels, over that of tiles: a camera's noise stays below it, and costs nothing further on."""


_PLAIN_FRAMES = 14
"""That follow a frame of which most moved. Then two go by tiles again: the first brings what is kept up to date, the
second shows whether the camera has come to rest."""


@dataclass(frozen=True)
class StreamCode:
    """A network compiled for streams of inputs of one signature.

    Attributes:
        executable: the code.
        plain: that of the network itself, which computes a frame as a whole and keeps nothing.
        plan: what the code takes behind a frame.
        build: makes what the network returns of the tensors that the code made.
        fitting: around a call; says in the project's words what goes wrong.
    """

    executable: Executable
    plain: Executable
    plan: StreamPlan
    build: Callable[[Sequence[Any]], Any]
    fitting: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


class CodeFor(Protocol):
    """Finds the code for a frame."""

    def __call__(
        self, inputs: Sequence[Any], named: Mapping[str, Any], begun: StreamCode | None
    ) -> tuple[StreamCode, list[Any], Callable[[Any], Any]]:
        """The code, the tensors to run it on, and what makes its outputs the caller's kind of tensor.

        Args:
            inputs, named: what the stream was called with.
            begun: the code that the stream began with; None: this is the first frame.
        """


def refuse_frame(shapes: Sequence[Sequence[int]]) -> InputError:
    """The error of a frame that isn't what a stream began with."""
    said = ", ".join("x".join(map(str, shape)) for shape in shapes)
    return InputError(
        f"a frame is {said}: the stream began with another shape, or before refresh(); reset() begins anew"
    )


@dataclass(frozen=True)
class LayerWork:
    """What a stream did for one layer.

    Attributes:
        side: of a tile of its outputs, in pixels.
        tiles: of its outputs, in all images of a frame.
        macs: multiply-adds of all tiles.
        last: tiles that the last frame took.
        computed: tiles that all frames took together.
    """

    side: int
    tiles: int
    macs: int
    last: int
    computed: int


@dataclass(frozen=True)
class StreamStatistics:
    """What a stream did since it began.

    Attributes:
        frames: so many there were.
        plain: of these, computed as a whole by the network itself, as most of the frames before them had moved.
        layers: by name, those of which tiles are computed.
    """

    frames: int
    plain: int
    layers: Mapping[str, LayerWork]

    @property
    def work(self) -> float:
        """Multiply-adds of the layers' tiles that were computed, over those of all; 0 before the first frame."""
        return _share(self.layers.values(), [each.computed / max(1, self.frames) for each in self.layers.values()])

    @property
    def last_work(self) -> float:
        """The same of the last frame."""
        return _share(self.layers.values(), [each.last for each in self.layers.values()])


def _share(layers: Collection[StreamLayer | LayerWork], tiles: Iterable[float]) -> float:
    """Multiply-adds of so many tiles of each layer, over those of all."""
    done = sum(layer.macs * count / layer.tiles for layer, count in zip(layers, tiles, strict=True))
    return done / max(1, sum(layer.macs for layer in layers))


class Stream:
    """Frames of a camera, or of a batch of them: called like the network, with one frame after the other.

    It keeps what it computed, and computes anew what changed; see ``CompiledModule.stream``. Calls from several
    threads take turns. The first frame says what shape all have.
    """

    def __init__(self, code_for: CodeFor, tolerance: float, refresh: int | None) -> None:
        if not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
            raise ConfigError(f"tolerance is {tolerance!r}: allowed are numbers from 0 on")
        if refresh is not None and (not isinstance(refresh, int) or isinstance(refresh, bool) or refresh < 1):
            raise ConfigError(f"refresh is {refresh!r}: allowed are whole numbers from 1 on, and None")
        self._code_for, self._tolerance, self._refresh = code_for, float(tolerance), refresh
        self._lock = Lock(brief=False)
        self._code: StreamCode | None = None
        self._states: list[Any] = []
        self._last: list[int] = []
        self._computed: list[int] = []
        self._frames, self._plain = 0, 0
        # Frames that are still to be computed plainly, and whether what is kept is that of the frame before.
        self._plain_left, self._is_recent = 0, False

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the network on the next frame.

        Args:
            inputs: the model's arguments, as of ``CompiledModule``.
            named: the same, by name.

        Returns:
            What the model returns: the same structure, new tensors.

        Raises:
            InputError: the frame isn't of the first one's shape, or as of ``CompiledModule``.
            UnsupportedOperatorError: the network has no convolution of which a part could be computed, or as there.
            TargetError: the target has no streams.
            HasteError: there is no memory for what it keeps.
        """
        with self._lock.lock:
            code, tensors, convert = self._code_for(inputs, named, self._code)
            if self._code is None:
                self._states = [_zeros(shape, dtype) for shape, dtype in code.plan.states]
                self._code, self._computed = code, [0] * len(code.plan.layers)
            plainly = self._plain_left > 0 and not self._is_due()
            with code.fitting():
                outputs = self._run_plainly(code, tensors, convert) if plainly else self._run(code, tensors, convert)
            self._frames += 1
            self._computed = [a + b for a, b in zip(self._computed, self._last, strict=True)]
            return code.build(outputs)

    def _run(self, code: StreamCode, tensors: list[Any], convert: Callable[[Any], Any]) -> list[Any]:
        """Compute what moved, and count it."""
        due = self._is_due()
        outputs, _ = code.executable.run([*tensors, self._tolerances(due), *self._states], convert)
        self._last = [int(self._states[layer.state].numpy()[0]) for layer in code.plan.layers]
        moving = self._is_recent and not due and _share(code.plan.layers, self._last) > code.plan.most_work
        self._plain_left, self._is_recent = _PLAIN_FRAMES if moving else 0, True
        return outputs

    def _run_plainly(self, code: StreamCode, tensors: list[Any], convert: Callable[[Any], Any]) -> list[Any]:
        """Compute everything. What is kept stays as it is: the next frame by tiles is held against that."""
        outputs, _ = code.plain.run(tensors, convert)
        self._last = [layer.tiles for layer in code.plan.layers]
        self._plain_left -= 1
        self._plain += 1
        self._is_recent = False
        return outputs

    def reset(self) -> None:
        """Forget all frames: the next one is computed as a whole, and may have another shape."""
        with self._lock.lock:
            self._forget()

    def _forget(self) -> None:
        self._code, self._states, self._last, self._computed = None, [], [], []
        self._frames, self._plain, self._plain_left, self._is_recent = 0, 0, 0, False

    def stats(self) -> StreamStatistics:
        """What was computed of the frames since the stream began, by layer."""
        with self._lock.lock:
            layers = self._code.plan.layers if self._code is not None else ()
            work = {
                layer.name: LayerWork(layer.side, layer.tiles, layer.macs, last, computed)
                for layer, last, computed in zip(layers, self._last, self._computed, strict=True)
            }
            return StreamStatistics(self._frames, self._plain, work)

    @property
    def tolerance(self) -> float:
        """Of tiles, as the stream was begun with."""
        return self._tolerance

    @property
    def pixel_tolerance(self) -> float:
        """Of the pixels of a frame."""
        return self._tolerance * _OF_PIXELS

    @property
    def kept_bytes(self) -> int:
        """Memory of what it keeps from frame to frame; 0 before the first one."""
        with self._lock.lock:
            return sum(math.prod(state.shape) * np.dtype(state.dtype).itemsize for state in self._states)

    def _is_due(self) -> bool:
        """Whether the next frame is to be computed as a whole, and kept."""
        return self._frames == 0 or (self._refresh is not None and self._frames % self._refresh == 0)

    def _tolerances(self, due: bool) -> Any:
        """Of tiles, and of pixels."""
        return np.array([_ALL, 0.0] if due else [self.tolerance, self.pixel_tolerance], np.float32)


def _zeros(shape: tuple[int, ...], dtype: str) -> Any:
    """A TVM tensor of zeros, aligned as the code wants it."""
    try:
        return tvm.runtime.tensor(np.zeros(shape, dtype))
    except MemoryError:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        raise HasteError(f"a stream keeps {size} bytes of one tensor of these frames: there is no memory") from None
