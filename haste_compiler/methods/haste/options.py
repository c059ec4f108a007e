"""What HASTE says to the command line: every field of ``HasteConfig`` that is an option, and the presets."""

from __future__ import annotations

from haste_compiler.methods.haste.config import MERGES, SKIPS, WINOGRAD_SIZES, HasteConfig
from haste_compiler.methods.option import Option, Preset

SUMMARY = "Merges alike channels and drops flat ones, anew on every input."


def _patch(text: str) -> int | list[int]:
    """Reads a side in output pixels, or HEIGHTxWIDTH."""
    try:
        sides = [int(side) for side in text.split("x")]
    except ValueError:
        raise ValueError(f"{text!r} is neither a side such as 8 nor HEIGHTxWIDTH") from None
    return sides[0] if len(sides) == 1 else sides


OPTIONS = (
    Option("num-hyperplanes", "num_hyperplanes", int, "Bits of a channel's code; more merge less."),
    Option("tolerance", "tolerance", float, "Predicted damage that a merged channel may do; none: any.", none=True),
    Option("flat-tolerance", "flat_tolerance", float, "How far from constant a dropped channel may be."),
    Option("patch-size", "patch_size", _patch, "Of a patch, in output pixels.", metavar="SIDE|HxW", unset="about 8"),
    Option("merge", "merge", MERGES, "What a group becomes."),
    Option("skip", "skip", SKIPS, "Channels dropped before grouping."),
    Option("nonzeros", "nonzeros", int, "Of each hyperplane; none: a third of its entries.", none=True),
    Option("seed", "seed", int, "Of the hyperplanes."),
    Option("min-channels", "min_channels", int, "Convolutions with fewer input channels stay dense."),
    Option("min-reads", "min_reads", int, "Convolutions that read each input less often stay dense."),
    Option(
        "winograd",
        "winograd",
        WINOGRAD_SIZES,
        "Largest tiles of Winograd's algorithm for convolutions that stay dense; 0: not used.",
    ),
    Option("cost-model", "cost_model", bool, "Only layers that are predicted to be faster, or all eligible ones."),
)

PRESETS = (
    Preset("default", "merge what does little damage, where it is predicted to be faster", HasteConfig),
    Preset("paper", "the published method", HasteConfig.paper),
    Preset("exact", "only what changes nothing", HasteConfig.exact),
    Preset("dense", "merge nothing", lambda: HasteConfig(enabled=False)),
)
