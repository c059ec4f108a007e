"""``HasteConfig``: what is merged, how carefully, and in which layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from haste_compiler.errors import ConfigError
from haste_compiler.methods.config import MethodConfig, integer, non_negative, one_of, winograd_size

MAX_HYPERPLANES = 30
"""Most hyperplanes that a code can hold: its bits fit a positive int32."""

MAX_PATCH_SIZE = 64
_MAX_NONZEROS = 1024
_USUAL_PATCH = 8

MERGES = ("mean", "projection")
SKIPS = ("none", "zeros", "flat")
"""What ``merge`` and ``skip`` may be."""


def even_patch(output_size: tuple[int, int], side: int) -> tuple[int, int]:
    """A patch's (height, width), each about ``side``, of which patches share the output plane evenly."""
    height, width = (-(-length // max(1, round(length / side))) for length in output_size)
    return height, width


@dataclass(frozen=True, eq=False)
class HasteConfig(MethodConfig):
    """How the convolutions of a network are turned into HASTE convolutions. Immutable, hashable, JSON-able.

    Attributes:
        enabled: False compiles the same network dense.
        num_hyperplanes: hyperplanes in use, that is bits of a channel's code (1 to 30). More planes merge less.
        nonzeros: non-zero entries of a hyperplane, half of them +1 and half -1 (an even number, 2 to 1024; no more than
            the window has pixels). 2: a bit of the code compares two pixels, which costs next to nothing and groups
            feature maps better than dense hyperplanes do. None: the published draw, a third of the entries.
        patch_size: side of a patch in output pixels, or ``(height, width)`` (1 to 64); a patch larger than the output
            plane is cut to it. None: about 8, chosen so that patches share the output plane evenly.
        merge: "mean" (the published rule: a group becomes its mean) or "projection" (each member keeps a
            coefficient on the group's sum).
        tolerance: a channel whose predicted damage exceeds this times the patch's rms is computed exactly (finite,
            at least 0); None turns the check off.
        skip: channels dropped before grouping: "none", "zeros" (windows that are all zero) or "flat" (also windows
            that are nearly constant; their mean is carried exactly).
        flat_tolerance: how far from constant a flat window may be, times the patch's rms (finite, at least 0).
        seed: seed of the hyperplanes (0 to 2^31 - 1), combined with each layer's name.
        min_channels: a convolution with fewer input channels per group stays dense (at least 1).
        min_reads: a convolution whose input pixels are read by fewer outputs each, ``kh * kw / (stride_h * stride_w)``,
            stays dense (at least 0): 1×1 and strided 3×3 ones gain less than grouping costs. 0 lets every one in.
        cost_model: True: an eligible convolution becomes a HASTE convolution only if it is predicted to be faster for
            it on this machine. False: every eligible one does.
        winograd: largest side of the tiles of outputs for which a 3×3 convolution that stays dense may be computed by
            Winograd's algorithm, where that is predicted to be faster: 4 (relative errors of about 1e-6, about twice
            those without), 2 (less than without) or 0 (never).
        layers: overrides, from a layer's qualified name or an ``fnmatch`` pattern of it to the fields that differ
            there, e.g. ``{"layer1.*": {"tolerance": 0.2}, "fc": {"enabled": False}}``. Later entries win.

    Raises:
        ConfigError: a value is out of range, of the wrong type, or an override names an unknown field.
    """

    METHOD = "haste"

    enabled: bool = True
    num_hyperplanes: int = 16
    nonzeros: int | None = 2
    patch_size: int | tuple[int, int] | None = None
    merge: Literal["mean", "projection"] = "projection"
    tolerance: float | None = 0.4
    skip: Literal["none", "zeros", "flat"] = "flat"
    flat_tolerance: float = 0.15
    seed: int = 0
    min_channels: int = 8
    min_reads: int = 4
    cost_model: bool = True
    winograd: int = 4
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def check(self) -> None:
        """See ``MethodConfig``."""
        self.set("num_hyperplanes", integer("num_hyperplanes", self.num_hyperplanes, 1, MAX_HYPERPLANES))
        if self.nonzeros is not None:
            self.set("nonzeros", integer("nonzeros", self.nonzeros, 2, _MAX_NONZEROS))
            if self.nonzeros % 2:
                raise ConfigError(f"nonzeros must be even (half +1, half -1) or None, not {self.nonzeros}")
        self.set("patch_size", _patch_size(self.patch_size))
        one_of("merge", self.merge, MERGES)
        if self.tolerance is not None:
            self.set("tolerance", non_negative("tolerance", self.tolerance, " (None turns it off)"))
        one_of("skip", self.skip, SKIPS)
        self.set("flat_tolerance", non_negative("flat_tolerance", self.flat_tolerance))
        self.set("seed", integer("seed", self.seed, 0, 2**31 - 1))
        self.set("min_channels", integer("min_channels", self.min_channels, 1, 2**31 - 1))
        self.set("min_reads", integer("min_reads", self.min_reads, 0, 2**31 - 1))
        self.set("winograd", winograd_size("winograd", self.winograd))

    @classmethod
    def paper(cls) -> Self:
        """The published method and nothing else: mean, 14 dense planes, patch 8, no tolerance, nothing skipped."""
        return cls(
            num_hyperplanes=14,
            nonzeros=None,
            patch_size=8,
            merge="mean",
            tolerance=None,
            skip="none",
            min_reads=0,
            cost_model=False,
        )

    @classmethod
    def exact(cls) -> Self:
        """Save only what changes nothing: projection with tolerance 0, and windows that are all zero skipped."""
        return cls(merge="projection", tolerance=0.0, skip="zeros", min_reads=0, cost_model=False)

    def patch_for(self, output_size: tuple[int, int]) -> tuple[int, int]:
        """Return the patch's (height, width) in output pixels on an output plane of this size."""
        if self.patch_size is None:
            return even_patch(output_size, _USUAL_PATCH)
        return (self.patch_size, self.patch_size) if isinstance(self.patch_size, int) else self.patch_size


def _patch_size(value: Any) -> int | tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ConfigError(f"patch_size must be an integer or (height, width), not {value!r}")
        height, width = (integer("patch_size", side, 1, MAX_PATCH_SIZE) for side in value)
        return height, width
    return integer("patch_size", value, 1, MAX_PATCH_SIZE)


CONFIG = HasteConfig
"""What the method is configured with."""
