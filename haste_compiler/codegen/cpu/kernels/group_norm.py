"""Group normalisation of images NHWC: moments of every channel, what they make of a group, and the map of every pixel.

The moments of a few pixels at a time are taken about the first of them and joined by Chan's rule (Chan, Golub and
LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979), and all values are taken
about the first pixel of their image: maps far from zero keep their digits, and a constant map has the variance zero.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.cpu.kernels.activation import apply_activation
from haste_compiler.codegen.cpu.kernels.rows import TASK_VALUES
from haste_compiler.codegen.dynamic import Batch, images_of
from haste_compiler.codegen.element import FLOAT32
from haste_compiler.codegen.emit import Expr

_DOUBLE = "float64"

_BLOCK = 32
"""Pixels whose moments are taken together: they stay in a near cache for the second look."""

_MOST_PARTS = 8
"""Parts of an image that threads share among them."""


def parts_of(pixels: int, channels: int) -> int:
    """How many parts an image is cut into, each of so many pixels but the last, which has some too."""
    parts = max(1, min(_MOST_PARTS, pixels * channels // TASK_VALUES))
    return -(-pixels // -(-pixels // parts))


def moments_kernel(name: str, batch: Batch, pixels: int, channels: int, lanes: int) -> tirx.PrimFunc:
    """The kernel (x, means, deviations): by part of an image and channel the mean, and the sum of squares about it.

    Means are those of the distances to the image's first pixel.

    Args:
        name: its symbol.
        batch: images.
        pixels: of an image; x is (batch, pixels, channels).
        channels: of a pixel.
        lanes: of a vector.
    """
    parts = parts_of(pixels, channels)
    length = -(-pixels // parts)

    def body(x: Expr, means: Expr, deviations: Expr) -> None:
        images = emit.bind(images_of(batch))
        with T.parallel(0, images * parts) as task:
            first = emit.bind(task % parts * length)
            base = emit.bind(task // parts * pixels)
            last = emit.bind(emit.minimum(first + length, pixels))
            with T.serial(0, (last - first + (_BLOCK - 1)) // _BLOCK) as block:
                start = emit.bind(first + block * _BLOCK)
                count = emit.bind(emit.minimum(_BLOCK, last - start))

                def piece(at: Expr, n: int, start: Expr = start, count: Expr = count, block: Expr = block) -> None:
                    number, mean, squares = _moments(x, base + start, count, at, n)
                    # Exact where the two pixels are alike, which the mean itself isn't.
                    here, origin = (emit.load(x, place * channels + at, n) for place in (base + start, base))
                    mean = here - origin + mean
                    _join(means, deviations, task * channels + at, n, block, number, mean, squares)

                emit.sweep(channels, lanes, piece)

    def _moments(x: Expr, first: Expr, count: Expr, at: Expr, n: int) -> tuple[Expr, Expr, Expr]:
        """Of ``count`` pixels their number, their mean's distance to the first, and the sum of squares about it."""
        origin = emit.Register(n, emit.load(x, first * channels + at, n))
        total, squares = emit.Register(n, 0.0), emit.Register(n, 0.0)
        with T.serial(0, count) as pixel:
            total.add(emit.load(x, (first + pixel) * channels + at, n) - origin.get())
        number = T.bind(tirx.Cast(FLOAT32.dtype, count))
        total.set(total.get() / emit.splat(number, n))
        with T.serial(0, count) as pixel:
            away = T.bind(emit.load(x, (first + pixel) * channels + at, n) - origin.get() - total.get())
            squares.add(away * away)
        return number, total.get(), squares.get()

    shape = (batch, parts, channels)
    arguments = [("x", (batch, pixels, channels)), ("means", shape), ("deviations", shape)]
    return emit.kernel(name, [(label, sizes, FLOAT32.dtype) for label, sizes in arguments], body)


def _join(
    means: Expr, deviations: Expr, index: Expr, n: int, block: Expr, number: Expr, mean: Expr, squares: Expr
) -> None:
    """Join the moments of a block with those of the blocks before it."""
    with T.If(block == 0):
        with T.Then():
            emit.store(means, index, mean, n)
            emit.store(deviations, index, squares, n)
        with T.Else():
            before = T.bind(tirx.Cast(FLOAT32.dtype, block * _BLOCK))
            share = T.bind(number / (before + number))
            old = emit.Register(n, emit.load(means, index, n))
            step = emit.Register(n, mean - old.get())
            joined = squares + step.get() * step.get() * emit.splat(before * share, n)
            emit.store(deviations, index, emit.load(deviations, index, n) + joined, n)
            emit.store(means, index, old.get() + step.get() * emit.splat(share, n), n)


def factors_kernel(name: str, batch: Batch, pixels: int, channels: int, groups: int, eps: float) -> tirx.PrimFunc:
    """The kernel (x, means, deviations, weight, centre, scale): of every channel its group's mean, and its factor.

    The mean is written as its distance to the channel's first pixel. Both are computed in float64.
    """
    parts, members = parts_of(pixels, channels), channels // groups
    length = -(-pixels // parts)

    def double(value: Expr) -> Expr:
        return tirx.Cast(_DOUBLE, value)

    def body(x: Expr, means: Expr, deviations: Expr, weight: Expr, centre: Expr, scale: Expr) -> None:
        with T.parallel(0, images_of(batch) * groups) as task:
            image, group = emit.bind(task // groups), emit.bind(task % groups)
            origin = emit.bind(image * pixels * channels + group * members)
            count, mean, squares = (emit.Register(1, T.float64(0), _DOUBLE) for _ in range(3))
            with T.serial(0, parts) as part, T.serial(0, members) as member:
                index = emit.bind((image * parts + part) * channels + group * members + member)
                number = T.bind(double(emit.minimum(length, pixels - part * length)))
                total = T.bind(count.get() + number)
                step = T.bind(double(x[origin + member]) + double(means[index]) - mean.get())
                share = T.bind(number / total)
                joined = T.bind(double(deviations[index]) + step * step * count.get() * share)
                mean.add(step * share)
                squares.add(joined)
                count.set(total)
            variance = T.bind(squares.get() / T.float64(pixels * members))
            factor = T.bind(T.float64(1) / tirx.sqrt(variance + T.float64(eps)))
            with T.serial(0, members) as member:
                channel = emit.bind(group * members + member)
                distance = mean.get() - double(x[origin + member])
                emit.store(centre, image * channels + channel, tirx.Cast(FLOAT32.dtype, distance))
                scaled = factor * double(weight[channel])
                emit.store(scale, image * channels + channel, tirx.Cast(FLOAT32.dtype, scaled))

    moments, factors = (batch, parts, channels), (batch, channels)
    arguments: list[tuple[str, tuple[Any, ...]]] = [("x", (batch, pixels, channels))]
    arguments += [("means", moments), ("deviations", moments)]
    arguments += [("weight", (channels,)), ("centre", factors), ("scale", factors)]
    return emit.kernel(name, [(label, sizes, FLOAT32.dtype) for label, sizes in arguments], body)


def normalise_kernel(name: str, batch: Batch, pixels: int, channels: int, activation: str, lanes: int) -> tirx.PrimFunc:
    """The kernel (x, centre, scale, bias, y): ``activation((x - first pixel - centre) * scale + bias)``."""
    block = max(1, min(pixels, TASK_VALUES // channels))
    blocks = -(-pixels // block)

    def body(x: Expr, centre: Expr, scale: Expr, bias: Expr, y: Expr) -> None:
        with T.parallel(0, images_of(batch) * blocks) as task:
            image, first = emit.bind(task // blocks), emit.bind(task % blocks * block)
            with T.serial(0, emit.minimum(block, pixels - first)) as pixel:
                start = emit.bind((image * pixels + first + pixel) * channels)
                of_image = emit.bind(image * channels)

                def piece(at: Expr, n: int, start: Expr = start, of_image: Expr = of_image) -> None:
                    distance = emit.load(x, start + at, n) - emit.load(x, of_image * pixels + at, n)
                    value = (distance - emit.load(centre, of_image + at, n)) * emit.load(
                        scale, of_image + at, n
                    ) + emit.load(bias, at, n)
                    emit.store(y, start + at, apply_activation(value, activation, n), n)

                emit.sweep(channels, lanes, piece)

    shape, factors = (batch, pixels, channels), (batch, channels)
    arguments = [("x", shape), ("centre", factors), ("scale", factors), ("bias", (channels,)), ("y", shape)]
    return emit.kernel(name, [(label, sizes, FLOAT32.dtype) for label, sizes in arguments], body)
