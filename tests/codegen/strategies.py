"""Generated convolutions."""

from hypothesis import strategies as st

from haste_compiler.errors import InputError
from haste_compiler.graph.geometry import ConvGeometry

ACTIVATIONS = (
    "none",
    "relu",
    "relu6",
    "hardswish",
    "hardsigmoid",
    "silu",
    "sigmoid",
    "gelu",
    "tanh",
    "leaky_relu:0.01",
    "clamp:-0.5:0.75",
    "elu:1.5",
)
"""Every activation that an epilogue can hold."""


@st.composite
def geometries(
    draw: st.DrawFn, channels: int = 20, filters: int = 40, side: int = 18, depthwise: bool = False, taps: int = 7
) -> ConvGeometry:
    """Convolutions of every kind, with few channels, so that building a kernel is cheap.

    Args:
        draw: Hypothesis's.
        channels: most input channels of a conv group.
        filters: most output channels of a conv group.
        side: most rows and columns of the image.
        depthwise: one channel and one filter a group.
        taps: most rows and columns of the kernel.
    """

    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    groups = draw(st.integers(2, 40)) if depthwise else draw(st.sampled_from((1, 1, 1, 2, 3)))
    kernel, stride, dilation = pair(1, taps), pair(1, 3), pair(1, 2)
    vertical, horizontal = pair(0, 3), pair(0, 3)
    padding = [*vertical, *horizontal]
    if draw(st.sampled_from((False, False, False, True))):
        # padding="same"
        total = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        padding = [total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2]
        stride = (1, 1)
    # Small enough sides fail less often where the kernel would not fit.
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    least = [max(1, reach[axis] - padding[2 * axis] - padding[2 * axis + 1]) for axis in (0, 1)]
    size = [draw(st.integers(smallest, max(smallest, side))) for smallest in least]
    try:
        return ConvGeometry(
            groups if depthwise else groups * draw(st.integers(1, channels)),
            groups if depthwise else groups * draw(st.integers(1, filters)),
            kernel,
            stride,
            (padding[0], padding[1], padding[2], padding[3]),
            dilation,
            groups,
            (size[0], size[1]),
            pair(1, 20) if draw(st.booleans()) else (8, 8),
        )
    except InputError as error:
        raise AssertionError(f"the strategy drew an impossible convolution: {error}") from error
