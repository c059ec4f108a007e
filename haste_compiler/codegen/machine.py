"""Where the pipeline differs between a CPU and a card: options, the usual patch, the cost model, the kernels."""

from __future__ import annotations

from typing import Any

from torch import fx
from tvm.target import Target

from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.cuda.lower import lower_to_cuda
from haste_compiler.codegen.cuda.target import is_cuda
from haste_compiler.codegen.cuda.tiling import Precisions
from haste_compiler.codegen.dynamic import BatchRange
from haste_compiler.codegen.lower import TilingChoice, lower
from haste_compiler.codegen.program import Lowered
from haste_compiler.cost.cuda import CudaCostModel
from haste_compiler.errors import TargetError
from haste_compiler.methods.haste.config import MAX_PATCH_SIZE, HasteConfig


class Machine:
    """What code is made for; as it stands, a CPU.

    Args:
        target: complete.
        threads: threads that work on it.
    """

    cost_model: CudaCostModel | None = None
    """None: the CPU's, which is measured when it is first asked."""

    def __init__(self, target: Target, threads: int) -> None:
        self.target, self.threads = target, threads

    def check(self, tune: Any = False, dynamic: Any = False) -> None:
        """Refuse options of ``compile`` that this kind of machine doesn't have.

        Raises:
            TargetError: one of them is set.
        """

    def configure(self, config: HasteConfig) -> HasteConfig:
        """A configuration with this machine's values for what is left to it."""
        return config

    def lower(self, gm: fx.GraphModule, choose: TilingChoice | None, batch: BatchRange | None) -> Lowered:
        """The kernels of a graph that ``run_passes`` returned; arguments as :func:`codegen.lower.lower` takes them."""
        return lower(gm, vector_unit(self.target), self.threads, choose, batch)


class _Card(Machine):
    def __init__(self, target: Target, threads: int, precisions: Precisions) -> None:
        super().__init__(target, threads)
        self._precisions = precisions
        self.cost_model = CudaCostModel.of(target, precisions.convolution)

    def check(self, tune: Any = False, dynamic: Any = False) -> None:
        if tune:
            raise TargetError("tune: only the tilings of a CPU's kernels are measured; a card's are chosen by a model")
        if dynamic:
            raise TargetError("dynamic: a card's kernels are made for one batch; only a CPU's take any")

    def configure(self, config: HasteConfig) -> HasteConfig:
        # Merging filters for a small patch takes a card longer than convolving it: the whole image is one.
        return config.replace(patch_size=MAX_PATCH_SIZE) if config.patch_size is None else config

    def lower(self, gm: fx.GraphModule, choose: TilingChoice | None, batch: BatchRange | None) -> Lowered:
        return lower_to_cuda(gm, self.target, self._precisions)


def machine_of(target: Target, threads: int, precisions: Precisions) -> Machine:
    """The machine that a complete target means; ``precisions`` are of a card's products."""
    return _Card(target, threads, precisions) if is_cuda(target) else Machine(target, threads)
