"""The first half of a HASTE convolution on a card: hash a patch's channels, group and merge them.

Patches should be large: whole images, or many rows. What reads windows shares each between many blocks; what decides
reads sums alone, one block a window. A block can't wait for others, so this takes a sequence of kernels:

    sums       of every channel, and with every hyperplane
    classify   what is dropped, what has equal codes
    merge      windows of groups
    residual   what that would lose
    regroup    without the members that would lose too much
    merge      windows of groups, with the channels that are alone behind them
    residual   and with what coefficients
    bound      on all that is lost
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from haste_compiler.methods.haste.cuda.decide import haste_classify_kernel, haste_regroup_kernel
from haste_compiler.methods.haste.cuda.layout import GroupLayout
from haste_compiler.methods.haste.cuda.merge import haste_bound_kernel, haste_merge_kernel, haste_residual_kernel
from haste_compiler.methods.haste.cuda.sums import haste_sums_kernel


@dataclass(frozen=True)
class GroupStep:
    """One launch.

    Attributes:
        kind: of the kernel; launches of one kind run the same.
        inputs: names of what it reads: "x", "planes" (as ``pack_planes`` makes them), "norm2" (|F_c|² by channel),
            "settings", or what steps before it wrote.
        outputs: names of what it writes, see ``GroupLayout.tensor``; a name that was there before is taken over.
        kernel: builds it, given a name.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kernel: Callable[[str], tirx.PrimFunc]


def group_steps(layout: GroupLayout, *, merge: str, skip: str) -> list[GroupStep]:
    """The launches, in order; they end with ``merged``, ``order``, ``coeff``, ``starts``, ``counts`` and ``bound``."""
    lists = ("state", "order", "starts", "counts")
    products = ("products",) if merge == "projection" else ()
    windows = ("x", *lists)
    rests = ("x", "totals", "state", "merged", "norm2", *products)

    def merging(kind: str, last: bool) -> GroupStep:
        return GroupStep(
            kind, windows, ("merged", *products), lambda name: haste_merge_kernel(name, layout, merge=merge, last=last)
        )

    residual = GroupStep(
        "residual", rests, ("coeff", "residuals"), lambda name: haste_residual_kernel(name, layout, merge=merge)
    )
    return [
        GroupStep("sums", ("x", "planes", "settings"), ("sums",), lambda name: haste_sums_kernel(name, layout)),
        GroupStep(
            "classify",
            ("sums", "norm2", "settings"),
            ("totals", *lists),
            lambda name: haste_classify_kernel(name, layout, skip=skip),
        ),
        merging("merge", last=False),
        residual,
        GroupStep(
            "regroup",
            ("totals", "residuals", "norm2", "settings", "state", "counts"),
            lists,
            lambda name: haste_regroup_kernel(name, layout),
        ),
        merging("merge_all", last=True),
        residual,
        GroupStep("bound", ("residuals",), ("bound",), lambda name: haste_bound_kernel(name, layout)),
    ]
