"""Activations of single values, with NaN kept as eager PyTorch keeps it."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr
from haste_compiler.errors import UnsupportedOperatorError


def apply_activation(value: Expr, activation: str) -> Expr:
    """``activation`` of a float32 value; the names are those of ``haste_compiler.ops.activation``."""
    name, *written = activation.split(":")
    numbers = [float(number) for number in written]
    if name == "none":
        return value
    value = T.bind(value)
    one = T.float32(1)
    if name == "relu":
        return _at_least(value, 0)
    if name == "relu6":
        return _at_most(_at_least(value, 0), 6)
    if name == "clamp":
        return _at_most(_at_least(value, numbers[0]), numbers[1])
    if name == "leaky_relu":
        return tirx.Select(value < 0, value * T.float32(numbers[0]), value)
    if name == "hardsigmoid":
        return _at_most(_at_least(value + T.float32(3), 0), 6) * T.float32(1 / 6)
    if name == "hardswish":
        return value * (_at_most(_at_least(value + T.float32(3), 0), 6) * T.float32(1 / 6))
    if name == "sigmoid":
        return one / (one + tirx.exp(-value))
    if name == "silu":
        return value / (one + tirx.exp(-value))
    if name == "tanh":
        return tirx.tanh(value)
    if name == "gelu":
        return value * T.float32(0.5) * (one + tirx.erf(value * T.float32(0.7071067811865476)))
    if name == "elu":
        # Of the larger argument it overflows, and isn't taken.
        below = tirx.call_pure_extern(FLOAT32.dtype, "expm1f", value)
        return tirx.Select(value < 0, T.float32(numbers[0]) * below, value)
    raise UnsupportedOperatorError(f"activation {activation!r} has no CUDA code")


def _at_least(value: Expr, low: float) -> Expr:
    value = T.bind(value)
    return tirx.Select(value < T.float32(low), T.float32(low), value)


def _at_most(value: Expr, high: float) -> Expr:
    value = T.bind(value)
    return tirx.Select(value > T.float32(high), T.float32(high), value)
