"""Where a compiled network runs, and getting tensors there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import tvm
import tvm_ffi

from haste_compiler.codegen.cuda.target import CARD
from haste_compiler.forking import Lock


def on_device(tensor: Any, device: Any) -> Any:
    """A TVM tensor on a device: itself, or a copy if it is on another."""
    return tensor if tensor.device == device else tensor.copyto(device)


def finish(device: Any) -> None:
    """Wait for what was launched under ``launching``; on the CPU everything is done already."""
    if _torch_uses(device):
        sys.modules["torch"].cuda.current_stream(CARD).synchronize()
    else:
        device.sync()


def wait_for(values: Iterable[Any]) -> None:
    """Wait for the cards that PyTorch's tensors among ``values`` are on; nothing to wait for on the CPU."""
    for device in {value.device for value in values if getattr(value, "is_cuda", False)}:
        sys.modules["torch"].cuda.synchronize(device)


_turn = Lock(brief=True)
_last_stream: Any = None
"""PyTorch's stream of the latest launches: what they use may be given to the next ones, in the same memory."""


@contextlib.contextmanager
def launching(device: Any) -> Iterator[None]:
    """While it is open, TVM launches on PyTorch's current stream of the card, if PyTorch uses the card at all.

    TVM gives memory that a call has freed to the next call, whatever stream that is launched on: where the stream has
    changed, it waits for the last one. Threads take turns, as the memory is the same for all.
    """
    global _last_stream
    if not _torch_uses(device):
        yield
        return
    cuda = sys.modules["torch"].cuda
    stream = cuda.current_stream(CARD)
    with _turn.lock, cuda.device(CARD), tvm_ffi.use_torch_stream():
        if _last_stream is not None and _last_stream != stream:
            stream.wait_stream(_last_stream)
        _last_stream = stream
        yield


def _torch_uses(device: Any) -> bool:
    torch = sys.modules.get("torch")
    return device != tvm.cpu() and torch is not None and torch.cuda.is_initialized()
