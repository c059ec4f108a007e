"""Predictions for the methods' sites: the machine's cost model, and the network run on made-up images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor, fx

from haste_compiler.codegen.machine import Machine
from haste_compiler.cost.calibration import cost_model, guess
from haste_compiler.cost.images import dead_leaves
from haste_compiler.cost.probe import probe_values, probed
from haste_compiler.methods.method import Site
from haste_compiler.methods.prediction import Prediction
from haste_compiler.methods.registry import method
from haste_compiler.methods.traced import Traced


class Pricing:
    """Predicts for ``choose_layers``: a ``Predict``.

    Args:
        machine: what the code is for.
        examples: the network's flat inputs; float images among them are replaced by made-up ones.
    """

    def __init__(self, machine: Machine, examples: Sequence[Any]) -> None:
        self.machine, self._examples = machine, examples

    def __call__(self, gm: fx.GraphModule, sites: Sequence[Site]) -> list[list[Prediction]]:
        """The predictions for some sites of one method."""
        return method(sites[0].method).price(gm, sites, self)

    @property
    def kind(self) -> str:
        """The name of the machine's folder."""
        return self.machine.KIND

    @cached_property
    def model(self) -> Any:
        """The machine's cost model."""
        return cost_model(self.machine)

    @property
    def guess(self) -> Any:
        """See ``methods.method.Pricing``."""
        return guess(self.machine)

    def natural(self, gm: fx.GraphModule, nodes: Sequence[fx.Node], seed: int) -> list[Tensor]:
        """The values of some nodes on made-up images like photographs."""
        return probe_values(gm, nodes, self._examples, dead_leaves, seed)

    def traced(self, gm: fx.GraphModule, nodes: Sequence[fx.Node], seed: int) -> Traced:
        """A run on such images that tells what changes of some nodes' values change the outputs by."""
        return probed(
            lambda inputs: Traced(gm, nodes, inputs),
            lambda run: [run.values[node] for node in nodes],
            nodes,
            self._examples,
            dead_leaves,
            seed,
        )
