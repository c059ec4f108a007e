"""The CPU as a ``Machine``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import tvm
from tvm import tirx
from tvm.relax.backend.cpu_generic import pipeline
from tvm.target import Target

from haste_compiler.codegen.cpu.schedule import schedule_rest
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.machine import Machine, Shapes
from haste_compiler.codegen.processor import check_cpu, cpu_name, missing_for, own_cpu

if TYPE_CHECKING:
    from haste_compiler.codegen.cpu.kernels.dense import TilingChoice
    from haste_compiler.codegen.stream_walk import Streams
    from haste_compiler.codegen.tables import Rules

_LEVEL = 2
"""LLVM's level of optimisation."""

_LEFT_OUT = [
    f"s_tir.{name}"
    for name in (
        "CompactBufferAllocation",
        "HoistIfThenElse",
        "InjectPermutedLayout",
        "InjectVirtualThread",
        "InsertHoistIfThenElse",
        "RenormalizeSplitPattern",
    )
]
"""Passes of TVM's that kernels are better off without."""


class Cpu(Machine):
    """A CPU.

    Attributes:
        unit: its vector unit.
        choose_tiling: picks the tiling of dense products: the model's choice, or what tuning measured.
    """

    KIND = "cpu"

    def __init__(
        self, target: Target, threads: int = 1, precision: str | None = None, choose: TilingChoice | None = None
    ) -> None:
        super().__init__(target, threads, precision)
        self.unit = vector_unit(target)
        self._choose = choose

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Machine``."""
        complete = dict(options)
        if "mcpu" not in complete and "mtriple" not in complete:
            complete["mcpu"] = own_cpu()
        check_cpu(complete)
        return complete

    @staticmethod
    def given(target: Target) -> dict[str, Any] | None:
        """See ``Machine``: TVM's own defaults are complete."""
        return None

    @property
    def name(self) -> str:
        """See ``Machine``."""
        return cpu_name(self.target)

    @property
    def generated(self) -> Target:
        """See ``Machine``.

        Kernels are unrolled and vectorised as they are written. LLVM's last level of optimisation takes a quarter
        longer for it, and makes none of them faster (``docs/performance.md``).
        """
        return Target({**json.loads(str(self.target)), "opt-level": _LEVEL})

    def missing(self) -> list[str]:
        """See ``Machine``."""
        return missing_for(self.target)

    def with_tilings(self, choose: TilingChoice | None) -> Cpu:
        """The same CPU with other tilings of dense products; None: the model's choice."""
        return Cpu(self.target, self.threads, choose=choose)

    @property
    def choose_tiling(self) -> TilingChoice:
        """See the class."""
        from haste_compiler.codegen.cpu.kernels.dense import choose_dense

        return self._choose or (
            lambda geometry, batch, winograd: choose_dense(geometry, batch, self.unit, self.threads, winograd)
        )

    def rules(self) -> Rules:
        """See ``Machine``."""
        from haste_compiler.codegen.cpu.rules import rules

        return rules()

    def streams(self) -> Streams | None:
        """See ``Machine``."""
        from haste_compiler.codegen.cpu.rules.streams import STREAMS

        return STREAMS

    def transpose(self, name: str, images: Any, rows: int, columns: int, shapes: Shapes) -> tirx.PrimFunc:
        """See ``Machine``."""
        from haste_compiler.codegen.cpu.kernels.transpose import transpose_kernel

        before, after = map(tuple, shapes)
        return transpose_kernel(name, images, rows, columns, self.unit.lanes, (before, after))

    def plan(self, mod: tvm.IRModule) -> tvm.IRModule:
        """See ``Machine``."""
        with self.target, self.pass_context():
            mod = tvm.transform.Sequential(pipeline.legalize_passes(self.target))(mod)
            mod = schedule_rest(mod, self.unit.lanes)
            late = pipeline.dataflow_lower_passes(self.target) + pipeline.finalize_passes(self.target)
            return tvm.transform.Sequential(late)(mod)

    def pass_context(self) -> Any:
        """See ``Machine``.

        TVM would let our kernels' scratch buffers share memory, integers and floats, across loops whose end depends on
        data; LLVM's type-based aliasing then takes their reads and writes out of order. It would also look for buffers
        that are larger than what is used of them: ours never are, and looking takes half the time of compiling kernels
        that group channels.

        What is left out besides serves cards, is what LLVM does anyway (common subexpressions), or makes two copies of
        loops (conditions hoisted out of them): kernels are no faster for it, and take twice as long to compile.
        """
        config = {"tirx.disable_storage_rewrite": True, "tirx.disable_cse_tir": True}
        return tvm.transform.PassContext(config=config, disabled_pass=_LEFT_OUT)

    @property
    def device(self) -> Any:
        """See ``Machine``."""
        return tvm.cpu()


MACHINE: Callable[..., Machine] = Cpu
