"""Calling PyTorch's own kernels in a process that was forked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from haste_compiler.runtime.threads import began_process, elsewhere

T = TypeVar("T")


def with_torch(function: Callable[[], T]) -> T:
    """What a function returns that calls PyTorch's own kernels.

    In the thread that a forked process began with they may wait for threads that are gone. Another thread runs the
    function then, under the same modes.
    """
    if not began_process():
        return function()
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def run() -> T:
        with (
            torch.inference_mode(inference),
            torch.set_grad_enabled(gradients),
            torch.autocast("cpu", enabled=autocast[0], dtype=autocast[1]),
        ):
            return function()

    return elsewhere(run)
