"""``from_onnx``: the way in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from haste_compiler.errors import OnnxError, first_line
from haste_compiler.interrupts import deferred_interrupts
from haste_compiler.onnx.network import OnnxNetwork

if TYPE_CHECKING:
    from onnx import ModelProto


@deferred_interrupts()
def from_onnx(model: str | os.PathLike[str] | ModelProto, *, single: bool = False) -> OnnxNetwork:
    """Read an ONNX network: a module that ``compile``, ``validate``, ``search`` and ``torch.compile`` take.

    Args:
        model: a file, with its external data beside it, or an ``onnx.ModelProto`` that holds its data.
        single: weights and casts of half precision (float16, bfloat16) become float32, and so do such inputs.

    Returns:
        The network, in evaluation mode. It takes the graph's inputs by position and returns its output, or a tuple of
        several. Convolutions and linear layers are modules that bear their ONNX nodes' names.

    Raises:
        UnsupportedOperatorError: the network has operators, or uses of operators, that aren't known; all are named.
        OnnxError: the file is none, is damaged, or isn't consistent; or the package ``onnx`` is missing.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise OnnxError(
            f'reading ONNX needs the package onnx: `pip install "haste-compiler[onnx]"` ({first_line(error)})'
        ) from error
    from haste_compiler.onnx.build import build
    from haste_compiler.onnx.prepare import prepare
    from haste_compiler.onnx.read import read

    return build(prepare(read(model)), single).eval()
