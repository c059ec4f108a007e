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


def torch_stream(device: Any) -> contextlib.AbstractContextManager[Any]:
    """While it is open, TVM launches on PyTorch's current stream of the card, if PyTorch uses the card at all."""
    torch = sys.modules.get("torch")
    if device == tvm.cpu() or torch is None or not torch.cuda.is_initialized():
        return contextlib.nullcontext()
    return tvm_ffi.use_torch_stream()
