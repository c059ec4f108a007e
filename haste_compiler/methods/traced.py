"""A run of a graph that tells what small changes of some nodes' values change its outputs by.

To first order a change d of a node's value changes the outputs by J d, with J the node's Jacobian. For directions v
with E[v vᵀ] = 1 the mean of ⟨v, J d⟩² is ‖J d‖² (Hutchinson, A Stochastic Estimator of the Trace of the Influence
Matrix, 1989), and ⟨v, J d⟩ = ⟨Jᵀ v, d⟩. One backward pass gives Jᵀ v for all nodes at once. So what any change of any
of them does costs one inner product for each direction, however deep the network is. Changes of several nodes add up
before they are squared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from haste_compiler.methods.registry import differentiable_operators
from haste_compiler.ops.eager import EAGER

Compute = Callable[[Mapping[fx.Node, Any]], Tensor]
"""What a layer returns, from the values of the nodes that it reads."""


class Traced:
    """A graph, run on some inputs.

    Args:
        gm: a graph that the passes went over, and of the methods at most those that reshape.
        nodes: whose changes are asked for; each has one floating-point tensor as its value.
        inputs: flat.

    Attributes:
        values: of every node, without gradients.
        outputs: the floating-point tensors that the graph returns, without gradients.
    """

    def __init__(self, gm: fx.GraphModule, nodes: Sequence[fx.Node], inputs: Sequence[Any]) -> None:
        self._gm, self._nodes, self._inputs = gm, list(nodes), inputs
        with torch.inference_mode(False), torch.enable_grad():
            walk = _Walk(gm, nodes)
            self._results = _floating(walk.run(*inputs, enable_io_processing=False))
        self._tapped = [walk.env[node] for node in nodes]
        self.values = {node: value.detach() if isinstance(value, Tensor) else value for node, value in walk.env.items()}
        self.outputs = [result.detach() for result in self._results]

    def pulled_back(self, directions: Sequence[Tensor]) -> list[Tensor]:
        """Jᵀ v of every node, in the shape of its value.

        Args:
            directions: v, one part for each of ``outputs``, of its shape.
        """
        pairs = [(result, part) for result, part in zip(self._results, directions, strict=True) if result.requires_grad]
        if not pairs:
            return [torch.zeros_like(tapped) for tapped in self._tapped]
        results, parts = zip(*pairs, strict=True)
        with torch.inference_mode(False):
            found = torch.autograd.grad(results, self._tapped, parts, retain_graph=True, allow_unused=True)
        return [
            torch.zeros_like(tapped) if each is None else each.detach()
            for tapped, each in zip(self._tapped, found, strict=True)
        ]

    def run_with(self, changed: Mapping[fx.Node, Compute]) -> list[Tensor]:
        """The outputs if some nodes computed something else."""
        with torch.no_grad():
            return _floating(_Walk(self._gm, (), changed).run(*self._inputs, enable_io_processing=False))

    def error(self, outputs: Sequence[Tensor]) -> float:
        """The relative error of other outputs (2-norms): the largest of all; infinite where one isn't finite."""
        errors = [float((found - own).norm() / _norm(own)) for own, found in zip(self.outputs, outputs, strict=True)]
        return max((each if math.isfinite(each) else math.inf for each in errors), default=0.0)


def probes(outputs: Sequence[Tensor], count: int, seed: int) -> Iterable[list[Tensor]]:
    """Directions v, each a part for every output, of which E[v vᵀ] is 1 / (count · the output's norm²).

    So the squares of ⟨v, J d⟩ of all of them add up to the squared relative error of the outputs. Directions are
    orthogonal: of outputs of no more than ``count`` numbers that sum is exact.

    Args:
        outputs: of a network.
        count: as many directions, at most.
        seed: of the random numbers.
    """
    size = sum(output.numel() for output in outputs)
    count = min(count, size)
    drawn = torch.randn(size, count, generator=torch.Generator().manual_seed(seed))
    rows = torch.linalg.qr(drawn).Q.T * math.sqrt(size / count)
    for row in rows:
        parts = row.split([output.numel() for output in outputs])
        yield [part.view(output.shape).to(output) / _norm(output) for part, output in zip(parts, outputs, strict=True)]


class _Walk(fx.Interpreter):
    """Runs a graph by operators that autograd goes through, and keeps all values.

    Args:
        gm: the graph.
        tapped: nodes whose values gradients are asked for.
        changed: what some nodes compute in the place of what they are.
    """

    def __init__(
        self, gm: fx.GraphModule, tapped: Iterable[fx.Node], changed: Mapping[fx.Node, Compute] | None = None
    ) -> None:
        self._tapped, self._changed = set(tapped), changed or {}
        self._operators: dict[Any, Callable[..., Any]] = {**EAGER, **differentiable_operators()}
        super().__init__(gm, garbage_collect_values=not self._tapped)

    def run_node(self, n: fx.Node) -> Any:
        """See ``fx.Interpreter``."""
        if n in self._changed:
            return self._changed[n](self.env)
        if n.op == "call_function" and n.target in self._operators:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            value = self._operators[n.target](*args, **kwargs)
        else:
            value = super().run_node(n)
        if n.op in ("placeholder", "get_attr") and isinstance(value, Tensor) and self._tapped:
            # A tensor of inference mode can't be kept for a backward pass.
            value = value.clone() if value.is_inference() else value.detach()
        if n in self._tapped and not value.requires_grad:
            value.requires_grad_()
        return value


def _floating(result: Any) -> list[Tensor]:
    leaves = tree_leaves(result)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel()]


def _norm(output: Tensor) -> Tensor:
    return output.norm().clamp(min=torch.finfo(output.dtype).tiny)
