"""A CUDA card as a ``Machine``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import tvm
from tvm import tirx
from tvm.target import Target

from haste_compiler.codegen.cuda.build import compile_source, has_compiler, plan_for_card, precise_compiler, source_of
from haste_compiler.codegen.cuda.target import CARD, arch_of, cuda_options, missing_card, processors
from haste_compiler.codegen.machine import Machine, Shapes
from haste_compiler.codegen.processor import missing_for, own_cpu
from haste_compiler.errors import TargetError

if TYPE_CHECKING:
    from haste_compiler.codegen.cuda.precision import Precisions
    from haste_compiler.codegen.tables import Rules


class Cuda(Machine):
    """A card, and the CPU that calls it.

    Attributes:
        processors: multiprocessors that kernels are cut for.
        precisions: of the products of convolutions and linear layers; hashing and grouping are always float32.
    """

    KIND = "cuda"
    PRECISIONS = ("fp32", "tf32", "bf16")

    def __init__(self, target: Target, threads: int = 1, precision: str | None = None) -> None:
        super().__init__(target, threads, precision)
        self._precision = precision

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Machine``."""
        return cuda_options({"host": {"kind": "llvm", "mcpu": own_cpu()}, **options})

    @staticmethod
    def given(target: Target) -> dict[str, Any] | None:
        """See ``Machine``: a target without a host gets this machine."""
        return None if target.host is not None else {"kind": "cuda", "arch": arch_of(target)}

    @property
    def host(self) -> Target:
        """See ``Machine``."""
        return self.target.host

    @property
    def name(self) -> str:
        """See ``Machine``."""
        return arch_of(self.target)

    @property
    def processors(self) -> int:
        """See the class."""
        return processors(self.target)

    @property
    def precisions(self) -> Precisions:
        """See the class."""
        from haste_compiler.codegen.cuda.precision import choose_precisions

        return choose_precisions(self._precision)

    def missing(self) -> list[str]:
        """See ``Machine``."""
        return [*missing_for(self.host), *missing_card(arch_of(self.target))]

    def check(self, *, tune: bool, dynamic: bool) -> None:
        """See ``Machine``."""
        if tune:
            raise TargetError("tune: only the tilings of a CPU's kernels are measured; a card's are chosen by a model")
        if dynamic:
            raise TargetError("dynamic: a card's kernels are made for one batch; only a CPU's take any")

    def rules(self) -> Rules:
        """See ``Machine``."""
        from haste_compiler.codegen.cuda.rules import rules

        return rules()

    def figures(self) -> Any:
        """See ``Machine``."""
        from haste_compiler.codegen.cuda.cost import CudaCostModel

        return CudaCostModel.of(self.target, self.precisions.convolution)

    def transpose(self, name: str, images: Any, rows: int, columns: int, shapes: Shapes) -> tirx.PrimFunc:
        """See ``Machine``."""
        from haste_compiler.codegen.cuda.kernels.pointwise import transpose_kernel

        before, after = map(tuple, shapes)
        return transpose_kernel(name, images, rows, columns, (before, after))

    def plan(self, mod: tvm.IRModule) -> tvm.IRModule:
        """See ``Machine``."""
        return plan_for_card(mod, self.target)

    def pass_context(self) -> Any:
        """See ``Machine``; TVM's own schedules leave buffers that are larger than what is used of them."""
        return tvm.transform.PassContext(config={"tirx.disable_storage_rewrite": True})

    def compiling(self, compiled: bytes | None = None) -> contextlib.AbstractContextManager[None]:
        """See ``Machine``."""
        return precise_compiler(self.target, compiled)

    def binary(self, module: Any) -> bytes | None:
        """See ``Machine``: a library that was compiled without a card holds CUDA C.

        Without nvcc that is compiled when it is loaded.
        """
        source = source_of(module)
        return compile_source(source, arch_of(self.target)) if source and has_compiler() else None

    @property
    def device(self) -> Any:
        """See ``Machine``."""
        return tvm.cuda(CARD)

    @property
    def torch_devices(self) -> tuple[str, ...]:
        """See ``Machine``."""
        return "cpu", f"cuda:{CARD}"


MACHINE: Callable[..., Machine] = Cuda
