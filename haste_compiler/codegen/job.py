"""Kernels that are timed by themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from numpy.typing import NDArray
from tvm import tirx
from tvm.target import Target

from haste_compiler.codegen.library import Code
from haste_compiler.codegen.target import machine_of
from haste_compiler.graph.geometry import ConvGeometry


@dataclass(frozen=True)
class Job:
    """Kernels to be timed together, in turns.

    Attributes:
        kernels: by symbol. Arguments of the same name, shape and dtype are one tensor: what one kernel writes, another
            may read.
        values: of arguments, by name; others are random numbers, and zeros where they are integers.
    """

    kernels: Mapping[str, tirx.PrimFunc]
    values: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def build(self, target: Target) -> Code:
        """The kernels' machine code."""
        machine = machine_of(target)
        with machine.pass_context():
            return Code(tvm.compile(tvm.IRModule(dict(self.kernels)), target=machine.generated), target)


@dataclass(frozen=True)
class Trial:
    """A convolution whose kernels under a method are timed, in turns with its plain kernel, to fit the cost model.

    Attributes:
        geometry: the convolution, one image.
        kernels: by the name that their phases go by, in the order in which they run.
        values: of arguments that are the same in all states, by name; arguments of one name are shared among kernels.
        states: inputs that make the kernels work differently: arguments, by name.
        work: from a state and the arguments after its kernels ran, by name: each kernel's work, by phase.
    """

    geometry: ConvGeometry
    kernels: Mapping[str, tirx.PrimFunc]
    values: Mapping[str, NDArray[Any]]
    states: Sequence[Mapping[str, Any]]
    work: Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Mapping[str, float]]]
