"""Counting the multiply-adds of a dense network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from haste_compiler.graph.capture import evaluation_mode
from haste_compiler.methods.products import macs_counted, operations_counter
from haste_compiler.validation.running import fresh_copy


def dense_macs(model: nn.Module, inputs: Sequence[Any]) -> int:
    """Count the multiply-adds of a network by running it once.

    Half of what ``torch.utils.flop_counter.FlopCounterMode`` counts (a multiply-add is two of its operations):
    convolutions and matrix products, not element-wise work, pooling or normalisation. A method's layer counts as the
    dense convolution that it replaces; attention on the CPU, which PyTorch's counter leaves out, is counted.

    Args:
        model: any module, or a graph of the passes; evaluated in evaluation mode, and left as it was.
        inputs: its positional arguments; left as they are.
    """
    with evaluation_mode(model), torch.no_grad(), operations_counter() as counter:
        model(*fresh_copy(tuple(inputs)))
    return macs_counted(counter)
