"""ONNX networks as PyTorch modules: a file is read, sizes are worked out, each operator becomes PyTorch's.

``from_onnx`` is the way in. The package ``onnx`` is an extra: what needs it is imported when ``from_onnx`` is called.
"""

from haste_compiler.onnx.from_onnx import from_onnx
from haste_compiler.onnx.network import OnnxNetwork, OnnxTensor

__all__ = ["OnnxNetwork", "OnnxTensor", "from_onnx"]
