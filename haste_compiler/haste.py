"""The HASTE operator in plain PyTorch, under its public name; it lives in ``methods/haste/reference``."""

from typing import TYPE_CHECKING

from haste_compiler.lazy import on_demand

if TYPE_CHECKING:
    from haste_compiler.graph.geometry import ConvGeometry, window_geometry
    from haste_compiler.methods.haste.macs import count_macs
    from haste_compiler.methods.haste.reference.bound import error_bound
    from haste_compiler.methods.haste.reference.convolution import HasteResult, haste_conv2d
    from haste_compiler.methods.haste.reference.grouping import filter_norms, group_windows
    from haste_compiler.methods.haste.reference.hashing import hash_windows
    from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
    from haste_compiler.methods.haste.reference.merging import Groups, count_channels, merge_windows, rebuild_windows
    from haste_compiler.methods.haste.reference.module import HasteConv2d
    from haste_compiler.methods.haste.reference.swap import swap_convs
    from haste_compiler.methods.haste.reference.windows import extract_windows, window_mask
    from haste_compiler.methods.haste.settings import Settings
    from haste_compiler.methods.macs import MacCount
    from haste_compiler.ops.activation import apply_activation

__all__ = [
    "ConvGeometry",
    "Groups",
    "HasteConv2d",
    "HasteResult",
    "MacCount",
    "Settings",
    "apply_activation",
    "count_channels",
    "count_macs",
    "draw_hyperplanes",
    "error_bound",
    "extract_windows",
    "filter_norms",
    "group_windows",
    "hash_windows",
    "haste_conv2d",
    "merge_windows",
    "rebuild_windows",
    "swap_convs",
    "window_geometry",
    "window_mask",
]

if not TYPE_CHECKING:
    # A saved artifact reads geometries and counts multiply-adds where there may be no PyTorch.
    __getattr__ = on_demand(
        __name__,
        {
            "ops.activation": ["apply_activation"],
            "methods.haste.reference.bound": ["error_bound"],
            "methods.haste.reference.convolution": ["HasteResult", "haste_conv2d"],
            "graph.geometry": ["ConvGeometry", "window_geometry"],
            "methods.haste.reference.grouping": ["filter_norms", "group_windows"],
            "methods.haste.reference.hashing": ["hash_windows"],
            "methods.haste.reference.hyperplanes": ["draw_hyperplanes"],
            "methods.haste.macs": ["MacCount", "count_macs"],
            "methods.haste.reference.merging": ["Groups", "count_channels", "merge_windows", "rebuild_windows"],
            "methods.haste.reference.module": ["HasteConv2d"],
            "methods.haste.settings": ["Settings"],
            "methods.haste.reference.swap": ["swap_convs"],
            "methods.haste.reference.windows": ["extract_windows", "window_mask"],
        },
        root="haste_compiler",
    )
