"""What a network holds, without data: it is run plain on made-up images, and what chosen layers read is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from haste_compiler.graph.nodes import shape_of

_SMALLEST_IMAGE = 8

Result = TypeVar("Result")

Draw = Callable[[Sequence[int], int], Tensor]
"""Draws images of a shape (N, C, H, W) from a seed."""


def probe_inputs(examples: Sequence[Any], draw: Draw, seed: int) -> list[Any]:
    """The inputs to probe with: images in place of float images, all else as it is."""
    inputs = []
    for position, example in enumerate(examples):
        image = isinstance(example, Tensor) and example.dim() == 4 and example.is_floating_point()
        if image and min(example.shape[2:]) >= _SMALLEST_IMAGE:
            example = draw(example.shape, seed + 10 * position).to(example.dtype)
        inputs.append(example)
    return inputs


def first_of_batch(examples: Sequence[Any]) -> list[Any]:
    """The first item of a batch, where all tensors have the same first dimension; otherwise all."""
    sizes = {example.shape[:1] for example in examples if isinstance(example, Tensor)}
    if len(sizes) != 1 or not next(iter(sizes)):
        return list(examples)
    return [example[:1] if isinstance(example, Tensor) else example for example in examples]


def probe_values(
    gm: fx.GraphModule, nodes: Sequence[fx.Node], examples: Sequence[Any], draw: Draw, seed: int
) -> list[Tensor]:
    """The values of some nodes on made-up inputs, see ``probed``."""
    return probed(lambda inputs: values_of(gm, nodes, inputs), lambda values: values, nodes, examples, draw, seed)


def probed(
    run: Callable[[Sequence[Any]], Result],
    values: Callable[[Result], Sequence[Tensor]],
    nodes: Sequence[fx.Node],
    examples: Sequence[Any],
    draw: Draw,
    seed: int,
) -> Result:
    """Run a graph on made-up inputs: one image of the batch, unless its size is written into the graph.

    Args:
        run: runs it on flat inputs.
        values: those of ``nodes`` in what that returned.
        nodes: of the graph, which show whether the size is.
        examples: flat inputs.
        draw: makes images up.
        seed: of them.
    """
    try:
        result = run(probe_inputs(first_of_batch(examples), draw, seed))
        if [tuple(value.shape[1:]) for value in values(result)] == [shape_of(node)[1:] for node in nodes]:
            return result
    except RuntimeError:
        pass
    return run(probe_inputs(examples, draw, seed))


def values_of(gm: fx.GraphModule, nodes: Sequence[fx.Node], inputs: Sequence[Any]) -> list[Tensor]:
    """The values of some nodes of a graph on ``inputs``, computing nothing else."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in gm.graph.nodes:
        if node.op != "output":
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    graph.output(tuple(copies[node] for node in nodes))
    part = fx.GraphModule(gm, graph)
    part.graph.eliminate_dead_code()
    with torch.no_grad():
        return list(fx.Interpreter(part).run(*inputs, enable_io_processing=False))
