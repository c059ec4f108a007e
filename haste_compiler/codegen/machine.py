"""What code is made for: the one interface that all targets have."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import tvm
from tvm import tirx
from tvm.target import Target

from haste_compiler.errors import ConfigError, InputError

if TYPE_CHECKING:
    from haste_compiler.codegen.stream_walk import Streams
    from haste_compiler.codegen.tables import Rules

Shapes = tuple[Sequence[Any], Sequence[Any]]
"""A tensor's shape before and after."""


MOST_THREADS = 1024
"""More than any machine has: each is one of the system's."""


class Machine(ABC):
    """A target, complete, and how many of its threads work on a network.

    Args:
        target: what ``parse_target`` returned.
        threads: threads that tasks are cut for.
        precision: of products; None: the target's own choice.

    Attributes:
        KIND: the name of the target's folder, of which methods have one of the same name.
        PRECISIONS: the precisions of products that the target has.

    Raises:
        ConfigError: the target doesn't have the precision.
        InputError: there are too many threads.
    """

    KIND: ClassVar[str]
    PRECISIONS: ClassVar[tuple[str, ...]] = ("fp32",)

    def __init__(self, target: Target, threads: int = 1, precision: str | None = None) -> None:
        self.target, self.threads = target, threads
        if not 1 <= threads <= MOST_THREADS:
            raise InputError(f"threads is {threads}: allowed are whole numbers from 1 to {MOST_THREADS}")
        if precision is not None and precision not in self.PRECISIONS:
            allowed = ", ".join(map(repr, self.PRECISIONS))
            raise ConfigError(f"precision is {precision!r}: allowed are {allowed} and None for {self.name}")

    @classmethod
    @abstractmethod
    def parse(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Complete a target's options from what a user wrote.

        Raises:
            TargetError: one of them is malformed, or names something that is unknown.
        """

    @staticmethod
    @abstractmethod
    def given(target: Target) -> dict[str, Any] | None:
        """The options of a ``Target`` that somebody made, to be parsed; None: it is complete."""

    @property
    def host(self) -> Target:
        """The CPU target that a network is called on."""
        return self.target

    @property
    def generated(self) -> Target:
        """The target as machine code is generated for it: the same, with what only the generator is told."""
        return self.target

    @property
    @abstractmethod
    def name(self) -> str:
        """What code is made for: a CPU by LLVM's name, without one its architecture; a card's "sm_80"."""

    @abstractmethod
    def missing(self) -> list[str]:
        """What this machine lacks to run the code; empty where it can run here."""

    def check(self, *, tune: bool, dynamic: bool) -> None:  # noqa: B027  (a target may have all of them)
        """Refuse options of ``compile`` that the target doesn't have.

        Raises:
            TargetError: one of them is set.
        """

    @abstractmethod
    def rules(self) -> Rules:
        """The rules that lower operators to the target's kernels."""

    def streams(self) -> Streams | None:
        """What computes streams; None: the target has none."""
        return None

    def figures(self) -> Any:
        """A cost model that needs no measuring; None: the target's kernels are timed once on each machine."""
        return None

    @abstractmethod
    def transpose(self, name: str, images: Any, rows: int, columns: int, shapes: Shapes) -> tirx.PrimFunc:
        """The kernel (x, y) that transposes each of ``images`` matrices; ``shapes`` of x and y."""

    @abstractmethod
    def plan(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Schedule what TVM generated, plan the memory of all tensors: what is left is to generate machine code."""

    @abstractmethod
    def pass_context(self) -> Any:
        """The settings under which TVM may lower the target's kernels."""

    def compiling(self, compiled: bytes | None = None) -> contextlib.AbstractContextManager[None]:
        """While it is open, TVM generates and loads code as the target needs it.

        Args:
            compiled: machine code that was made elsewhere and belongs to what is loaded.
        """
        return contextlib.nullcontext()

    def binary(self, module: Any) -> bytes | None:
        """Machine code that has to be kept beside a module's library, made now; None: the library holds it all."""
        return None

    @property
    @abstractmethod
    def device(self) -> Any:
        """The device, as TVM knows it, that the code runs on."""

    @property
    def torch_devices(self) -> tuple[str, ...]:
        """Where inputs may be, as PyTorch writes it: "cpu", "cuda:0"."""
        return ("cpu",)
