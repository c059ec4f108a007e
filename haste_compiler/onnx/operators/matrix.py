"""Products of matrices."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from haste_compiler.onnx.site import Operator, Site
from haste_compiler.onnx.values import Known, Result


def _linear(at: Site, weight: Known, bias: Known | None) -> nn.Module:
    outputs, inputs = weight.array.shape
    module = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    module.weight = at.weight(weight)
    if bias is not None:
        module.bias = at.weight(bias)
    return module


def _gemm(at: Site) -> Result:
    a, weight, bias = at.tensor(0), at.known(1), at.known(2)
    alpha, beta = at.attribute("alpha", 1.0), at.attribute("beta", 1.0)
    if at.attribute("transA", 0):
        a = at.call(torch.t, a)
    if weight is not None and weight.array.dtype.kind == "f" and (bias is not None or at.value(2) is None):
        filters = weight.array if at.attribute("transB", 0) else weight.array.T
        outputs = filters.shape[0]
        row = bias is None or bias.array.size == 1 or bias.array.shape in ((outputs,), (1, outputs))
        if row:
            offset = None
            if bias is not None:
                row_of = np.broadcast_to(bias.array.reshape(-1), (outputs,))
                offset = Known((row_of * np.float32(beta)).astype(bias.array.dtype), bias.name)
            scaled = filters if alpha == 1 else (filters * np.float32(alpha)).astype(filters.dtype)
            return at.layer(_linear(at, Known(scaled, weight.name), offset), a)
    b = at.call(torch.t, at.tensor(1)) if at.attribute("transB", 0) else at.tensor(1)
    product = at.call(torch.matmul, a, b)
    if alpha != 1:
        product = at.call(torch.mul, product, alpha)
    if at.value(2) is None:
        return product
    c = at.tensor(2)
    return at.call(torch.add, product, c if beta == 1 else at.call(torch.mul, c, beta))


def _matmul(at: Site) -> Result:
    weight = at.known(1)
    if weight is not None and weight.array.ndim == 2 and weight.array.dtype.kind == "f":
        return at.layer(_linear(at, Known(weight.array.T, weight.name), None), at.tensor(0))
    return at.call(torch.matmul, at.tensor(0), at.tensor(1))


def _einsum(at: Site) -> Result:
    return at.call(torch.einsum, at.attribute("equation"), *at.tensors())


def _integer_product(a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None) -> Tensor:
    a, b = a.to(torch.int32), b.to(torch.int32)
    if a_zero is not None:
        a = a - (a_zero[..., None] if a_zero.dim() else a_zero).to(torch.int32)
    return torch.matmul(a, b if b_zero is None else b - b_zero.to(torch.int32))


def _matmul_integer(at: Site) -> Result:
    return at.call(_integer_product, at.tensor(0), at.tensor(1), at.optional(2), at.optional(3))


OPERATORS: dict[str, Operator] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    "MatMulInteger": _matmul_integer,
}
