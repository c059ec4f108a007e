"""Which of a patch's channels are dropped, which may be merged, and which are alone from the start."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from haste_compiler.codegen.cpu import emit
from haste_compiler.codegen.emit import Expr
from haste_compiler.methods.haste.cpu.patch import Patch
from haste_compiler.methods.haste.cpu.reduce import total
from haste_compiler.methods.haste.reference.grouping import LARGEST_ENERGY

_KEPT, _ZERO, _FLAT, _ALONE = 0, 1, 2, 3


@dataclass(frozen=True)
class Energy:
    """What a patch's energy decides.

    Attributes:
        finite: whether the patch is; otherwise nothing of it is merged or dropped.
        flat_threshold: a channel that loses no more than this, squared, may be dropped with its mean carried.
    """

    finite: Expr
    flat_threshold: Expr


def measure_energy(patch: Patch) -> Energy:
    """Emit the mean of (|P_c| · |F_c|)² and what follows from it; it sets the threshold of members too."""
    size, lanes, squares = patch.channels, patch.lanes, patch.scratch.squares
    weighted = emit.bind(total(lambda c, n: emit.load(squares, c, n) * patch.norm2(c, n), size, lanes))
    mean_square = emit.bind(weighted * T.float32(1.0 / size))
    energy = emit.bind(total(lambda c, n: emit.load(squares, c, n), size, lanes))
    # Comparisons that NaN fails; energy - energy == 0 would be simplified to true.
    largest = T.float32(emit.LARGEST)
    finite = emit.bind(tirx.all(energy <= T.float32(LARGEST_ENERGY), weighted <= largest))
    tolerance, flat = patch.tensors.settings[1], patch.tensors.settings[2]
    patch.scratch.threshold.set(tolerance * tolerance * mean_square)
    return Energy(finite, emit.bind(flat * flat * mean_square))


def classify(patch: Patch, energy: Energy, inverse: Expr, skip: str) -> None:
    """Which channels are zero or flat; a patch that isn't finite keeps every channel to itself.

    Args:
        patch: whose channels.
        energy: of the patch.
        inverse: one over the window's pixels on the image.
        skip: "none", "zeros" or "flat".
    """
    scratch = patch.scratch

    def decide(c: Expr, n: int) -> None:
        result = emit.splat(T.int32(_KEPT), n)
        square = T.bind(emit.load(scratch.squares, c, n))
        if skip == "flat":
            whole = T.bind(emit.load(scratch.sums, c, n))
            rest = square - whole * whole * emit.splat(inverse, n)
            is_flat = rest * patch.norm2(c, n) <= emit.splat(energy.flat_threshold, n)
            result = tirx.Select(is_flat, emit.splat(T.int32(_FLAT), n), result)
        if skip != "none":
            is_zero = square == emit.splat(0.0, n)
            result = tirx.Select(is_zero, emit.splat(T.int32(_ZERO), n), result)
        emit.store(scratch.kind, c, result, n)

    with T.If(energy.finite):
        with T.Then():
            emit.sweep(patch.channels, patch.lanes, decide)
        with T.Else():
            patch.fill(scratch.kind, patch.channels, _ALONE)


def sort_by_kind(patch: Patch) -> None:
    """Lists of the kept, zero and flat channels, and of those that are alone from the start."""
    scratch = patch.scratch
    for channels in scratch.lists:
        channels.clear()
    kinds = ((scratch.kept, _KEPT), (scratch.zeros, _ZERO), (scratch.flats, _FLAT), (scratch.singles, _ALONE))
    with T.serial(0, patch.channels) as c:
        kind = emit.bind(scratch.kind[c])
        for channels, which in kinds:
            channels.append_if(c, kind == which)
