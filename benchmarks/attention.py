"""Attention of the shapes that networks have, ours and PyTorch's in turns: `python -m benchmarks.attention`."""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import tvm
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from benchmarks.short_calls import Call, in_turns
from haste_compiler.codegen.cpu.kernels.attention import Operand, Operands, attention_kernel
from haste_compiler.codegen.cpu.kernels.attention_products import FloatProducts, Products
from haste_compiler.codegen.cpu.kernels.attention_tiling import AttentionSizes, choose_attention
from haste_compiler.codegen.cpu.target import vector_unit
from haste_compiler.codegen.target import machine_of, parse_target
from haste_compiler.cost.peaks import measure_peaks
from haste_compiler.methods.quantized.cpu.attention import IntegerProducts, choose_blocks
from haste_compiler.methods.quantized.cpu.units import integer_unit
from haste_compiler.runtime.threads import with_threads

_SETTLING = 0.05
"""Seconds after which the threads of the runner before, which spin for more work, have gone to sleep."""

_LONG_FLOPS = 2e10
"""Operations from which on three rounds are enough."""


@dataclass(frozen=True)
class Shape:
    """Images or windows, heads, tokens and the width of a head; whether there is a bias for each pair."""

    images: int
    heads: int
    tokens: int
    width: int
    biased: bool = False

    @property
    def flops(self) -> float:
        """Of both products, a multiply-add being two."""
        return 4.0 * self.images * self.heads * self.tokens**2 * self.width


SHAPES = {
    "ViT-Ti": Shape(1, 3, 197, 64),
    "DeiT-S": Shape(1, 6, 197, 64),
    "ViT-B": Shape(1, 12, 197, 64),
    "ViT-B, 384": Shape(1, 12, 577, 64),
    "Swin-T, stage 1": Shape(64, 3, 49, 32, biased=True),
    "Swin-T, stage 2": Shape(16, 6, 49, 32, biased=True),
    "Swin-T, stage 3": Shape(4, 12, 49, 32, biased=True),
    "Swin-T, stage 4": Shape(1, 24, 49, 32, biased=True),
    "MobileViT-S, 1": Shape(4, 4, 256, 36),
    "MobileViT-S, 2": Shape(4, 4, 64, 48),
    "MobileViT-S, 3": Shape(4, 4, 16, 60),
    "VGGT, a frame": Shape(1, 16, 1041, 64),
    "VGGT, 10 frames, one head": Shape(1, 1, 10410, 64),
    "VGGT, 30 frames, one head": Shape(1, 1, 31230, 64),
}


@dataclass(frozen=True)
class Found:
    """Seconds of each round by runner, and relative errors (2-norm) of ours."""

    seconds: dict[str, list[float]]
    errors: dict[str, float]


def measure(shape: Shape, threads: int, rounds: int) -> Found:
    """Time one shape, of tensors as a linear layer of all three writes them."""
    images, heads, tokens, width = shape.images, shape.heads, shape.tokens, shape.width
    joined = torch.randn(images, tokens, 3, heads, width)
    query, key, value = joined.permute(2, 0, 3, 1, 4)
    mask = torch.randn(images, heads, tokens, tokens) if shape.biased else None
    calls: dict[str, Callable[[], Any]] = {"PyTorch": lambda: F.scaled_dot_product_attention(query, key, value, mask)}
    expected, errors = calls["PyTorch"](), {}
    for name in ("float32", "int8"):
        calls[name], y = _compiled(shape, joined, mask, threads, name)
        calls[name]()
        errors[name] = float((y.transpose(1, 2) - expected).norm() / expected.norm())

    few = min(rounds, 3) if shape.flops > _LONG_FLOPS else rounds

    def settled(call: Call) -> None:
        if threads > 1:
            time.sleep(_SETTLING)
        call()

    return Found(with_threads(threads, lambda: in_turns(calls, few, settled)), errors)


def _compiled(
    shape: Shape, joined: Tensor, mask: Tensor | None, threads: int, name: str
) -> tuple[Callable[[], Any], Tensor]:
    """A kernel of ours, and what it writes: (images, tokens, heads, width)."""
    images, heads, tokens, width = shape.images, shape.heads, shape.tokens, shape.width
    machine = machine_of(parse_target("llvm"))
    unit, sizes = vector_unit(machine.target), AttentionSizes((images, heads), tokens, tokens, width, width)
    row = heads * width
    strides = (3 * tokens * row, width, 3 * row, 1)
    query, key, value = (Operand(tuple(joined.shape), strides, i * row) for i in range(3))
    out = Operand((images, tokens, heads, width), (tokens * row, width, row, 1))
    tiling = choose_attention(sizes, unit, threads)
    products: Products = FloatProducts(sizes, tiling, unit.lanes)
    if name == "int8":
        products = IntegerProducts(sizes, choose_blocks(sizes, tiling), integer_unit(machine.target))
    added = None if mask is None else Operand(tuple(mask.shape), mask.stride())
    places = Operands(query, key, value, out, added)
    kernel = attention_kernel("attention", sizes, places, width**-0.5, products)
    with machine.pass_context():
        code = tvm.compile(tvm.IRModule({"attention": kernel}), target=machine.target)
    y = torch.empty(out.shape)
    tensors = [*[joined] * 3, *([] if mask is None else [mask]), y]
    arguments = [tvm.runtime.from_dlpack(tensor) for tensor in tensors]
    function = code["attention"]
    return lambda: function(*arguments), y


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    peak = measure_peaks(parse_target("llvm"), given.threads).flops
    columns = ("PyTorch ms", "float32", "÷ PyTorch", "GFLOP/s", "of peak", "int8 ms", "÷ float32", "error")
    table = Table("attention", *columns, title=f"{given.threads} threads, peak {peak / 1e9:.0f} GFLOP/s, best (median)")
    with torch.inference_mode():
        for name in given.shapes:
            table.add_row(name, *_cells(SHAPES[name], measure(SHAPES[name], given.threads, given.rounds), peak))
    Console(width=160).print(table)


def _cells(shape: Shape, found: Found, peak: float) -> list[str]:
    best = {name: min(times) for name, times in found.seconds.items()}
    middle = {name: statistics.median(times) for name, times in found.seconds.items()}

    def ratio(name: str, other: str) -> str:
        return f"{best[name] / best[other]:.2f} ({middle[name] / middle[other]:.2f})"

    def milliseconds(name: str) -> str:
        return f"{1e3 * best[name]:.3f} ({1e3 * middle[name]:.3f})"

    rate = shape.flops / best["float32"]
    return [
        milliseconds("PyTorch"),
        milliseconds("float32"),
        ratio("float32", "PyTorch"),
        f"{rate / 1e9:.0f}",
        f"{rate / peak:.0%}",
        milliseconds("int8"),
        ratio("int8", "float32"),
        f"{found.errors['int8']:.2%}",
    ]


if __name__ == "__main__":
    main()
