"""The call from machine code: a number and tensors go in, what PyTorch makes of them comes out."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tvm_ffi

from haste_compiler.errors import HasteError, MisfitError
from haste_compiler.fallback.record import Fallback
from haste_compiler.interrupts import deferred_interrupts

SYMBOL = "haste.fallback"
"""What machine code calls, with the fallback's number and its tensors."""

NOT_DESCRIBED = "the machine code calls PyTorch for something that isn't described"
"""What is said then; TVM passes the words on, but not the kind of error."""

_ALIGNMENT = 64
"""Bytes that TVM wants a tensor to begin at a multiple of."""

_current = threading.local()

Function = Callable[..., Sequence[Any]]
"""Takes PyTorch's tensors, returns a tuple of them."""


class Caller:
    """What ``haste.fallback`` calls while a network runs, in the thread that it runs in.

    Args:
        functions: by their numbers.
    """

    def __init__(self, functions: Sequence[Function]) -> None:
        self._functions = functions

    @classmethod
    def of(cls, fallbacks: Sequence[Fallback], device: str) -> Caller:
        """The caller for a network's fallbacks, which run on a device that PyTorch names so.

        Raises:
            HasteError: PyTorch isn't installed, or knows no such operators.
        """
        try:
            from haste_compiler.fallback.program import read
        except ModuleNotFoundError as error:
            needed = ", ".join(dict.fromkeys(name for each in fallbacks for name in each.operators))
            raise HasteError(
                f"the network needs {error.name}, which computes {needed} in it, and it isn't installed"
            ) from None
        return cls([read(fallback.program, device) for fallback in fallbacks])

    def running(self) -> contextlib.AbstractContextManager[None]:
        """While it is open, calls from the machine code of the thread that opens it are these functions.

        They use as many of PyTorch's threads as the thread that asks for it would. An error that one of them raises is
        raised as it is, not as TVM passes it on.
        """
        import torch

        return self._running(torch.get_num_threads())

    @contextlib.contextmanager
    def _running(self, threads: int) -> Iterator[None]:
        import torch

        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        before = getattr(_current, "caller", None)
        _current.caller, _current.error = self, None
        try:
            # What is raised in a function that TVM calls becomes TVM's.
            with deferred_interrupts():
                yield
        except Exception:
            error, _current.error = _current.error, None
            if error is None:
                raise
            raise error from None
        finally:
            _current.caller = before

    def call(self, number: int, tensors: Sequence[Any]) -> Any:
        """Run a function on TVM's tensors, without a copy; returns such, compact and in memory of their own."""
        import torch

        if not 0 <= number < len(self._functions):
            raise MisfitError(NOT_DESCRIBED)
        inputs = [torch.utils.dlpack.from_dlpack(tensor) for tensor in tensors]
        with torch.no_grad(), _as_captured(inputs):
            outputs = self._functions[number](*inputs)
        taken = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        results = []
        for output in outputs:
            result = output.contiguous()
            if result.untyped_storage().data_ptr() in taken or result.data_ptr() % _ALIGNMENT:
                result = result.clone()
            results.append(tvm_ffi.from_dlpack(result))
        return results[0] if len(results) == 1 else results


@contextlib.contextmanager
def _as_captured(inputs: Sequence[Any]) -> Iterator[None]:
    """Without the caller's autocast: dtypes are as they were captured."""
    import torch

    device = inputs[0].device.type if inputs else "cpu"
    if not torch.is_autocast_enabled(device):
        yield
        return
    with torch.autocast(device, enabled=False):
        yield


@tvm_ffi.register_global_func(SYMBOL)
def _call(number: int, *tensors: Any) -> Any:
    caller = getattr(_current, "caller", None)
    if caller is None:
        raise MisfitError(NOT_DESCRIBED)
    try:
        return caller.call(number, tensors)
    except Exception as error:
        _current.error = error
        raise
