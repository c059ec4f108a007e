"""What an operator reads: a tensor of the network's, a constant, or sizes that are known once a call's shapes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor, fx

DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.BOOL: torch.bool,
}
HALF = (torch.float16, torch.bfloat16)


class Unsupported(Exception):
    """An operator, or this use of it, isn't known; the message says what."""


@dataclass(frozen=True, eq=False)
class Known:
    """A constant.

    Attributes:
        array: its value.
        name: in the graph.
    """

    array: np.ndarray[Any, Any]
    name: str

    def tensor(self) -> Tensor:
        """A copy of it as PyTorch has it."""
        array = np.ascontiguousarray(self.array).reshape(self.array.shape)
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
        try:
            return torch.from_numpy(array.copy())
        except TypeError as error:
            raise Unsupported(f"a constant of type {array.dtype}") from error


@dataclass(frozen=True, eq=False)
class Sizes:
    """Numbers that follow from the shapes of a call.

    Attributes:
        array: numbers and graph nodes that stand for numbers, dtype object.
        floating: they were cast to floating point.
    """

    array: np.ndarray[Any, Any]
    floating: bool = False


Value = fx.Node | Known | Sizes | None
"""None: an operand that was left out."""
Result = Value | tuple[Value, ...]
"""What an operator returns: one value, or one for each output."""
