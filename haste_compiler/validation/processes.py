"""Several processes that share a validation's batches, and how they agree on what was found."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self, TypeVar

from torch import distributed

from haste_compiler import errors
from haste_compiler.errors import HasteError, first_line

T = TypeVar("T")


class _Failure(NamedTuple):
    """An error, as other processes learn of it."""

    kind: str
    message: str


class Processes(NamedTuple):
    """The processes of ``torch.distributed``'s default group, or this one alone.

    Attributes:
        rank: of this process.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of_default_group(cls) -> Self:
        """Those of the default group; this one alone where there is none."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def together(self, work: Callable[[], T]) -> list[T]:
        """Do one's part of the work, and return what every process made of its own, by rank.

        Raises:
            HasteError: another process failed; of the same class as its error, if that is one of this package's. The
                process that fails raises its own error. All raise, or none does.
        """
        if self.size == 1:
            return [work()]
        own: Exception | None = None
        result: T | _Failure
        try:
            result = work()
        except Exception as error:
            own, result = error, _Failure(type(error).__name__, str(error) or first_line(error))
        results: list[T | _Failure] = [result] * self.size
        distributed.all_gather_object(results, result)
        if own is not None:
            raise own
        good: list[T] = []
        for rank, each in enumerate(results):
            if isinstance(each, _Failure):
                kind = getattr(errors, each.kind, HasteError)
                raise kind(f"process {rank} of {self.size} failed: {each.message}")
            good.append(each)
        return good
