"""Operators that compute every element by itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from haste_compiler.onnx.site import Operator, Site, simple
from haste_compiler.onnx.values import DTYPES, HALF, Known, Result, Unsupported


def _binary(function: Callable[..., Any]) -> Operator:
    def write(at: Site) -> Result:
        first, second = at.scalar(0), at.scalar(1)
        # PyTorch's functions want a tensor first, and a tensor keeps the other's type.
        if not isinstance(first, fx.Node):
            first = at.tensor(0)
        return at.call(function, first, second)

    return write


def _variadic(function: Callable[..., Any]) -> Operator:
    return lambda at: functools.reduce(lambda a, b: at.call(function, a, b), at.tensors())


def _divide(a: Tensor, b: Tensor | float) -> Tensor:
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _power(x: Tensor, exponent: Tensor | float) -> Tensor:
    power = torch.pow(x, exponent)
    return power if power.dtype == x.dtype else power.to(x.dtype)


def _mod(at: Site) -> Result:
    return at.call(torch.fmod if at.attribute("fmod", 0) else torch.remainder, *at.tensors())


def _mean(at: Site) -> Result:
    return at.call(torch.div, _variadic(torch.add)(at), len(at.values))


def _extreme(function: Callable[..., Any], bound: str) -> Operator:
    def write(at: Site) -> Result:
        if len(at.values) == 2:
            a, b = at.scalar(0), at.scalar(1)
            if isinstance(a, fx.Node) != isinstance(b, fx.Node):
                tensor, number = (a, b) if isinstance(a, fx.Node) else (b, a)
                return at.call(torch.clamp, tensor, **{bound: number})
        return _variadic(function)(at)

    return write


def _shift(at: Site) -> Result:
    left = at.attribute("direction") == "LEFT"
    return at.call(torch.bitwise_left_shift if left else torch.bitwise_right_shift, *at.tensors())


def _clip(at: Site) -> Result:
    if at.version < 11:
        bounds = [at.attribute("min"), at.attribute("max")]
    else:
        bounds = [None if at.value(i) is None else at.numbers(i) if at.known(i) else at.tensor(i) for i in (1, 2)]
        bounds = [bound[0] if isinstance(bound, list) else bound for bound in bounds]
    if bounds == [None, None]:
        return at.value(0)
    if any(isinstance(bound, fx.Node) for bound in bounds):
        bounds = [None if at.value(i) is None else at.tensor(i) for i in (1, 2)]
    return at.call(torch.clamp, at.tensor(0), *bounds)


def _cast(at: Site) -> Result:
    dtype = DTYPES.get(at.attribute("to"))
    if dtype is None:
        raise Unsupported(f"to the element type {at.attribute('to')}")
    if at.writer.single and dtype in HALF:
        dtype = torch.float32
    return at.call(Tensor.to, at.tensor(0), dtype)


def _cast_like(at: Site) -> Result:
    known, dtype = at.known(0), at.types[0]
    if known is not None and dtype is not None and dtype not in HALF:
        return Known(known.tensor().to(dtype).numpy(), known.name)
    return at.call(Tensor.type_as, at.tensor(0), at.tensor(1))


def _is_infinite(at: Site) -> Result:
    x, signs = at.tensor(0), (at.attribute("detect_positive", 1), at.attribute("detect_negative", 1))
    if signs == (0, 0):
        return at.call(torch.zeros_like, x, dtype=torch.bool)
    return at.call({(1, 1): torch.isinf, (1, 0): torch.isposinf, (0, 1): torch.isneginf}[signs], x)


OPERATORS: dict[str, Operator] = {
    "Abs": simple(torch.abs),
    "Acos": simple(torch.acos),
    "Acosh": simple(torch.acosh),
    "Asin": simple(torch.asin),
    "Asinh": simple(torch.asinh),
    "Atan": simple(torch.atan),
    "Atanh": simple(torch.atanh),
    "Ceil": simple(torch.ceil),
    "Cos": simple(torch.cos),
    "Cosh": simple(torch.cosh),
    "Erf": simple(torch.erf),
    "Exp": simple(torch.exp),
    "Floor": simple(torch.floor),
    "Identity": lambda at: at.value(0),
    "IsInf": _is_infinite,
    "IsNaN": simple(torch.isnan),
    "Log": simple(torch.log),
    "Neg": simple(torch.neg),
    "Not": simple(torch.logical_not),
    "Reciprocal": simple(torch.reciprocal),
    "Round": simple(torch.round),
    "Sign": simple(torch.sign),
    "Sin": simple(torch.sin),
    "Sinh": simple(torch.sinh),
    "Softsign": simple(F.softsign),
    "Sqrt": simple(torch.sqrt),
    "Tan": simple(torch.tan),
    "Tanh": simple(torch.tanh),
    "BitwiseNot": simple(torch.bitwise_not),
    "Add": _binary(torch.add),
    "Sub": _binary(torch.sub),
    "Mul": _binary(torch.mul),
    "Div": _binary(_divide),
    "Pow": _binary(_power),
    "Mod": _mod,
    "And": simple(torch.logical_and),
    "Or": simple(torch.logical_or),
    "Xor": simple(torch.logical_xor),
    "Equal": simple(torch.eq),
    "Greater": simple(torch.gt),
    "GreaterOrEqual": simple(torch.ge),
    "Less": simple(torch.lt),
    "LessOrEqual": simple(torch.le),
    "BitShift": _shift,
    "BitwiseAnd": simple(torch.bitwise_and),
    "BitwiseOr": simple(torch.bitwise_or),
    "BitwiseXor": simple(torch.bitwise_xor),
    "Max": _extreme(torch.maximum, "min"),
    "Min": _extreme(torch.minimum, "max"),
    "Sum": _variadic(torch.add),
    "Mean": _mean,
    "Where": simple(torch.where),
    "Clip": _clip,
    "Cast": _cast,
    "CastLike": _cast_like,
}
