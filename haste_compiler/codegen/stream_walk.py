"""Walking over an FX graph to make the code of a stream: what of a frame's tensors is kept, and how it is brought up to
date.

Kept images are arguments of the code, which it changes. Beside each goes a plane of sizes and one of changes
(``kept.py`` of the target's kernels): a rule that takes planes in gives planes out. A tensor that any other kernel
computed is computed anew with every frame; where a rule wants its planes, it is held against what was kept of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx
from tvm import relax

from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.machine import Machine
from haste_compiler.codegen.program import Lowered
from haste_compiler.codegen.stream_plan import Described, StreamLayer, StreamPlan
from haste_compiler.codegen.tables import Joined
from haste_compiler.codegen.walk import M, Value, Walk
from haste_compiler.errors import UnsupportedOperatorError


@dataclass(frozen=True)
class Streams:
    """What a target has for streams.

    Attributes:
        rules: by operator, what lowers a call so that a part of it is computed; it returns None where it can't.
        enter: holds a node's tensor against what is kept of it, and keeps it: how any other tensor gets its planes. If
            it is tolerant, a pixel stays as it is that differs a little.
    """

    rules: Mapping[Any, Callable[[StreamWalk[Any], fx.Node], Value | None]]
    enter: Callable[[StreamWalk[Any], fx.Node, bool], None]


@dataclass(frozen=True)
class Planes:
    """Of a kept image: expressions of the plane of sizes and of that of changes, (N, H, W) each."""

    sizes: Any
    changes: Any


def lower_stream(
    gm: fx.GraphModule, machine: Machine, rules: Joined, streams: Streams, *, fallback: bool = True
) -> tuple[Lowered, StreamPlan]:
    """Lower a graph for streams; see ``walk.lower``.

    Args:
        gm: the graph, of static shapes.
        machine: what code is made for.
        rules: the methods' and the machine's tables, joined.
        streams: of the machine; its rules are asked first.
        fallback: let PyTorch run what no kernel computes.

    Raises:
        UnsupportedOperatorError: as ``walk.lower``; or there is no layer of which tiles could be computed.
    """
    walk = StreamWalk(gm, machine, rules, streams, fallback=fallback)
    lowered = walk.run()
    if not walk.layers:
        raise UnsupportedOperatorError(
            "the network has no convolution of images of which a stream could compute a part"
        )
    return lowered, StreamPlan(tuple(walk.states), tuple(walk.layers))


class StreamWalk(Walk[M]):
    """The walk for streams.

    Attributes:
        tolerances: expression of the tolerances: of tiles, and of a frame's pixels.
        states: shapes and dtypes of the states so far.
        layers: those of which tiles are computed.
    """

    def __init__(
        self, gm: fx.GraphModule, machine: M, rules: Joined, streams: Streams, *, fallback: bool = True
    ) -> None:
        super().__init__(gm, machine, rules, fallback=fallback)
        self._streams = streams
        self._planes: dict[fx.Node, Planes] = {}
        self.states: list[Described] = []
        self.layers: list[StreamLayer] = []
        self.tolerances = relax.Var("tolerances", relax.TensorType([2], FLOAT32.dtype))
        self._state_params: list[Any] = []

    @property
    def _inputs_behind(self) -> list[Any]:
        return [self.tolerances, *self._state_params]

    def _lowered(self, node: fx.Node) -> Any:
        rule = self._streams.rules.get(node.target)
        value = None if rule is None else rule(self, node)
        return super()._lowered(node) if value is None else value

    def planes(self, node: fx.Node, *, tolerant: bool = False) -> Planes:
        """The planes of a node's tensor, which is kept from now on if it wasn't.

        Args:
            node: (N, C, H, W).
            tolerant: a pixel stays as it is that differs a little; so it is with what comes in.
        """
        if node not in self._planes:
            self._streams.enter(self, node, tolerant or node.op == "placeholder")
        return self._planes[node]

    def has_planes(self, node: fx.Node) -> bool:
        """Whether a node's tensor is kept."""
        return node in self._planes

    def keep(self, node: fx.Node, values: Any, planes: Planes) -> Value:
        """Note that a node's tensor is kept; its value, NHWC."""
        self._planes[node] = planes
        self.values[node] = Value(values, nhwc=True)
        return Value(values, nhwc=True)

    def count_tiles(self, name: str, side: int, tiles: int, macs: int) -> None:
        """Note a layer; the last state that was made says how many of its tiles a frame took."""
        self.layers.append(StreamLayer(name, side, tiles, macs, len(self.states) - 1))

    def launch_kept(
        self,
        key: tuple[Any, ...],
        layer: str,
        args: Sequence[Any],
        states: Sequence[Described],
        out: Sequence[Described],
        build: Callable[[str], Any],
    ) -> list[Any]:
        """Call a kernel that changes new states.

        Args:
            key, layer, build: as of ``launch``.
            args: expressions of what it only reads, its first arguments.
            states: what it changes, its next ones.
            out: what it writes, its last ones.

        Returns:
            The states as they are after the call, then what was written.
        """
        first = len(self.states)
        made = [
            relax.Var(f"state_{first + i}", relax.TensorType(list(shape), dtype))
            for i, (shape, dtype) in enumerate(states)
        ]
        self.states += states
        self._state_params += made
        kernel, symbol = self.kernel(key, build)
        places = [*range(len(args), len(args) + len(made)), *([-1] * len(out))]
        kinds = [relax.TensorType(list(shape), dtype) for shape, dtype in (*states, *out)]
        called = relax.call_tir_inplace(kernel, relax.Tuple([*args, *made]), places, kinds)
        result = self.emit(called)
        self.note_launch(symbol, layer, result)
        if len(kinds) == 1:
            return [result]
        return [self.emit(relax.TupleGetItem(result, i)) for i in range(len(kinds))]
