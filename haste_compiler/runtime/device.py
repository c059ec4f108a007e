"""Where a compiled network runs, and getting tensors there."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import tvm
import tvm_ffi
from tvm.target import Target

from haste_compiler.codegen.cuda.target import is_cuda


def device_of(target: Target) -> Any:
    """The device that code for a target runs on: the CPU, or the first card."""
    return tvm.cuda(0) if is_cuda(target) else tvm.cpu()


def on_device(tensor: Any, device: Any) -> Any:
    """A TVM tensor on a device: itself, or a copy if it is on another."""
    return tensor if tensor.device == device else tensor.copyto(device)


def finish(device: Any) -> None:
    """Wait for what was launched under ``torch_stream``; on the CPU everything is done already."""
    if _torch_uses(device):
        sys.modules["torch"].cuda.current_stream().synchronize()
    else:
        device.sync()


def torch_stream(device: Any) -> contextlib.AbstractContextManager[Any]:
    """While it is open, TVM launches on PyTorch's current stream of the card, if PyTorch uses the card at all."""
    return tvm_ffi.use_torch_stream() if _torch_uses(device) else contextlib.nullcontext()


def _torch_uses(device: Any) -> bool:
    torch = sys.modules.get("torch")
    return device != tvm.cpu() and torch is not None and torch.cuda.is_initialized()
