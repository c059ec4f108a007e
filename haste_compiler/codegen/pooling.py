"""A pooling, as kernels are told it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pooling:
    """A 2-d pooling.

    Attributes:
        kind: "max", "avg" or "adaptive_avg".
        input_size, output_size: image height and width before and after.
        kernel, stride, padding, dilation: as in PyTorch; not used by "adaptive_avg".
        count_include_pad, divisor: as in ``avg_pool2d``.
    """

    kind: str
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    count_include_pad: bool = True
    divisor: int | None = None
