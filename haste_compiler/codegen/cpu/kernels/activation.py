"""Activations inside a kernel's epilogue, on vectors, with NaN kept as eager PyTorch keeps it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu.emit import Register, load, store
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr, splat
from haste_compiler.errors import UnsupportedOperatorError

_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_EXP2 = (1.5353362e-4, 1.3398875e-3, 9.6184374e-3, 5.5503325e-2, 2.4022648e-1, 6.9314720e-1)
_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)

_SHIFT = 1.5 * 2.0**23 + 127
"""Beside which a float32 has room for integers only: the exponent of 2^n is in its lowest bits once n is added."""


def is_long(activation: str) -> bool:
    """Whether it takes an exponential: tens of instructions, which a register tile shouldn't repeat for every sum."""
    return activation.split(":")[0] in ("sigmoid", "silu", "tanh", "gelu", "elu")


def pack_channels(values: NDArray[Any], channels: int) -> NDArray[np.float32]:
    """One number for all channels, or one for each, as float32 (channels,)."""
    return np.ascontiguousarray(np.broadcast_to(values.astype(np.float32).reshape(-1), (channels,)))


def prelu(value: Expr, slopes: Expr, lanes: int) -> Expr:
    """A vector, of which what is below zero is multiplied by ``slopes``."""
    return tirx.Select(value < splat(0.0, lanes), value * slopes, value)


def apply_activation(value: Expr, activation: str, lanes: int) -> Expr:
    """``activation`` of a vector; the names are those of ``haste_compiler.ops.activation``."""
    name, *numbers = activation.split(":")
    constants = [float(number) for number in numbers]

    def const(number: float) -> Expr:
        return splat(float(number), lanes)

    if name == "none":
        return value
    if name == "relu":
        return _clamp_low(value, const(0))
    if name == "relu6":
        return _clamp_high(_clamp_low(value, const(0)), const(6))
    if name == "clamp":
        return _clamp_high(_clamp_low(value, const(constants[0])), const(constants[1]))
    if name == "leaky_relu":
        return prelu(value, const(constants[0]), lanes)
    value = T.bind(value)
    if name == "hardsigmoid":
        return _clamp_high(_clamp_low(value + const(3), const(0)), const(6)) * const(1 / 6)
    if name == "hardswish":
        return value * (_clamp_high(_clamp_low(value + const(3), const(0)), const(6)) * const(1 / 6))
    if name == "sigmoid":
        return const(1) / (const(1) + exp(-value, lanes))
    if name == "silu":
        return value / (const(1) + exp(-value, lanes))
    if name == "tanh":
        # tanh(x) = 1 - 2 / (1 + e^2x): loses digits near zero, where the series takes over
        square = T.bind(value * value)
        series = value * (const(1) + square * (const(-1 / 3) + square * const(2 / 15)))
        large = const(1) - const(2) / (const(1) + exp(value + value, lanes))
        return tirx.Select(square < const(1e-2), series, large)
    if name == "gelu":
        return value * const(0.5) * (const(1) + erf(value * const(0.7071067811865476), lanes))
    if name == "elu":
        return tirx.Select(value < const(0), const(constants[0]) * expm1(value, lanes), value)
    raise UnsupportedOperatorError(f"activation {activation!r} has no CPU code")


def write_output(y: Expr, index: Expr, value: Expr, lanes: int, residual: Expr | None, activation: str) -> None:
    """Store ``value`` plus what the residual has there; the activation is applied unless it ``is_long``."""
    if residual is not None:
        value = value + load(residual, index, lanes)
    store(y, index, value if is_long(activation) else apply_activation(value, activation, lanes), lanes)


def _clamp_low(value: Expr, low: Expr) -> Expr:
    return tirx.Select(value < low, low, value)


def _clamp_high(value: Expr, high: Expr) -> Expr:
    return tirx.Select(value > high, high, value)


def exp(value: Expr, lanes: int) -> Expr:
    """e^x to float32 rounding: 2^n times Cephes' polynomial on the remainder (LLVM would call libm lane by lane)."""
    power, rest = _exponent(value, lanes)
    return _scaled(_remainder(rest, lanes) + splat(1.0, lanes), power, lanes)


def exp2(value: Expr, lanes: int) -> Expr:
    """2^x to float32 rounding of x up to 127; below -126 zero, for a product with a denormal takes 100 cycles.

    n, the nearest integer, is found in the lowest bits of x plus a large number, and what is left of x by a polynomial
    with relative errors of 2e-9 on [-1/2, 1/2].
    """
    x = _keep(value, lanes)
    shifted = _keep(x + splat(_SHIFT, lanes), lanes)
    rest = _keep(x - (shifted - splat(_SHIFT, lanes)), lanes)
    poly = splat(_EXP2[0], lanes)
    for coefficient in (*_EXP2[1:], 1.0):
        poly = poly * rest + splat(coefficient, lanes)
    bits = tirx.reinterpret(_vector("int32", lanes), shifted) << splat(T.int32(23), lanes)
    power = tirx.reinterpret(_vector(FLOAT32.dtype, lanes), bits)
    return tirx.Select(x < splat(-126.0, lanes), splat(0.0, lanes), poly * power)


def expm1(value: Expr, lanes: int) -> Expr:
    """e^x - 1 to float32 rounding: near zero, where n is 0, the polynomial without its one."""
    power, rest = _exponent(value, lanes)
    near = _keep(_remainder(rest, lanes), lanes)
    far = _scaled(near + splat(1.0, lanes), power, lanes) - splat(1.0, lanes)
    return tirx.Select(power == splat(0.0, lanes), near, far)


def _exponent(value: Expr, lanes: int) -> tuple[Expr, Expr]:
    """n and the remainder of ``x = n log 2 + rest``, within what float32 holds."""
    x = T.bind(_clamp_high(_clamp_low(value, splat(-87.3, lanes)), splat(88.7, lanes)))
    power = T.bind(tirx.floor(x * splat(1.4426950408889634, lanes) + splat(0.5, lanes)))
    return power, T.bind(x - power * splat(0.693359375, lanes) - power * splat(-2.12194440e-4, lanes))


def _remainder(rest: Expr, lanes: int) -> Expr:
    """e^rest - 1 for a remainder."""
    poly = splat(_EXP[0], lanes)
    for coefficient in _EXP[1:]:
        poly = poly * rest + splat(coefficient, lanes)
    return poly * (rest * rest) + rest


def _scaled(poly: Expr, power: Expr, lanes: int) -> Expr:
    """``poly`` times 2^n."""
    bits = (tirx.Cast(_vector("int32", lanes), power) + splat(T.int32(127), lanes)) << splat(T.int32(23), lanes)
    return poly * tirx.reinterpret(_vector(FLOAT32.dtype, lanes), bits)


def erf(value: Expr, lanes: int) -> Expr:
    """The error function to 1.5e-7 (Abramowitz and Stegun 7.1.26)."""
    x = T.bind(value)
    size = _keep(tirx.Select(x < splat(0.0, lanes), -x, x), lanes)
    t = _keep(splat(1.0, lanes) / (splat(1.0, lanes) + splat(0.3275911, lanes) * size), lanes)
    poly = splat(_ERF[0], lanes)
    for coefficient in _ERF[1:]:
        poly = poly * t + splat(coefficient, lanes)
    result = _keep(splat(1.0, lanes) - poly * t * exp(-size * size, lanes), lanes)
    return tirx.Select(x < splat(0.0, lanes), -result, result)


def _keep(value: Expr, lanes: int) -> Expr:
    """Hold a value in a register: TVM puts a bound expression back where it is used, which doubles each time."""
    return Register(lanes, value).get()


def _vector(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"
