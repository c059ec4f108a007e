"""What runs in place of a graph: our code and Inductor's, or Inductor's alone, whichever is faster at a size."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx

from haste_compiler.dynamo.measure import faster
from haste_compiler.dynamo.region import Region
from haste_compiler.dynamo.split import Cut
from haste_compiler.forking import Lock

log = logging.getLogger(__name__)

Function = Callable[..., Sequence[Any]]
"""Takes a graph's arguments, returns its outputs."""

_RECURRING = 3
"""An image size is compiled for when it comes so often: until then it runs through Inductor's code for any size."""

_MOST_SIZES = 4
"""Image sizes that are compiled for; others stay with Inductor."""


class CompiledGraph:
    """A graph with two ways to run it. May be called from any thread.

    Args:
        ours: runs what we take as our own code.
        other: runs all of it without us: Inductor's code.
        sizes: positions among the arguments of the sizes that may vary.
        batch: the position of the one that any value of is computed from few programs; None: there is none.
        measure: whether to run the faster of the two. False: ours, whatever it takes.
    """

    def __init__(self, ours: Function, other: Function, sizes: Sequence[int], batch: int | None, measure: bool) -> None:
        self._ours, self._other, self._measure = ours, other, measure
        self._sizes, self._batch = tuple(sizes), batch
        self._lock = Lock(brief=False)
        self._choices: dict[tuple[int, ...], Function] = {}
        self._images: set[tuple[int, ...]] = set()
        self._seen: Counter[tuple[int, ...]] = Counter()

    def __call__(self, *args: Any) -> Sequence[Any]:
        """Run the graph."""
        sizes = tuple([args[position] for position in self._sizes])
        function = self._choices.get(sizes)
        if function is None:
            function = self.choose(sizes, args)
        return function(*args)

    def choose(self, sizes: tuple[int, ...], args: Sequence[Any]) -> Function:
        """Which of the two runs arguments of these sizes. What is chosen stays chosen."""
        with self._lock.lock:
            if sizes in self._choices:
                return self._choices[sizes]
            image = tuple(args[position] for position in self._sizes if position != self._batch)
            if image not in self._images and self._images:
                self._seen[image] += 1
                if len(self._images) >= _MOST_SIZES or (self._measure and self._seen[image] < _RECURRING):
                    return self._other
            self._images.add(image)
            chosen = self._ours
            if self._measure and not faster(self._ours, self._other, args):
                chosen = self._other
            log.info("at sizes %s: %s", sizes or "of the graph", "ours" if chosen is self._ours else "Inductor's code")
            self._choices[sizes] = chosen
            return chosen


def call_directly(gm: fx.GraphModule, part: Cut, region: Region, own: Sequence[Tensor]) -> Function:
    """A function that calls a region that is the whole of a graph; ``own`` are arguments that aren't given to it."""
    placeholders = gm.graph.find_nodes(op="placeholder")
    tensors, weights, sizes = (
        [placeholders.index(node) for node in nodes] for nodes in (part.tensors, part.weights, part.sizes)
    )
    leaves: Any = gm.graph.output_node().args[0]
    order = [part.outputs.index(leaf) for leaf in leaves]

    def run(*given: Any) -> Sequence[Any]:
        args = (*given, *own)
        outputs = region([args[i] for i in tensors], [args[i] for i in weights], [args[i] for i in sizes])
        return [outputs[i] for i in order]

    return run
