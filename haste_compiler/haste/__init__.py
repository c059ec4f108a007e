"""The HASTE operator in plain PyTorch: what every compiled kernel is checked against."""

from typing import TYPE_CHECKING

from haste_compiler.lazy import on_demand

if TYPE_CHECKING:
    from haste_compiler.haste.activation import apply_activation
    from haste_compiler.haste.bound import error_bound
    from haste_compiler.haste.convolution import HasteResult, haste_conv2d
    from haste_compiler.haste.geometry import ConvGeometry, window_geometry
    from haste_compiler.haste.grouping import filter_norms, group_windows
    from haste_compiler.haste.hashing import hash_windows
    from haste_compiler.haste.hyperplanes import draw_hyperplanes
    from haste_compiler.haste.macs import MacCount, count_macs
    from haste_compiler.haste.merging import Groups, count_channels, merge_windows, rebuild_windows
    from haste_compiler.haste.module import HasteConv2d
    from haste_compiler.haste.settings import Settings
    from haste_compiler.haste.swap import swap_convs
    from haste_compiler.haste.windows import extract_windows, window_mask

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
            "activation": ["apply_activation"],
            "bound": ["error_bound"],
            "convolution": ["HasteResult", "haste_conv2d"],
            "geometry": ["ConvGeometry", "window_geometry"],
            "grouping": ["filter_norms", "group_windows"],
            "hashing": ["hash_windows"],
            "hyperplanes": ["draw_hyperplanes"],
            "macs": ["MacCount", "count_macs"],
            "merging": ["Groups", "count_channels", "merge_windows", "rebuild_windows"],
            "module": ["HasteConv2d"],
            "settings": ["Settings"],
            "swap": ["swap_convs"],
            "windows": ["extract_windows", "window_mask"],
        },
    )
