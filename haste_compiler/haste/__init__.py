"""The HASTE operator in plain PyTorch: what every compiled kernel is checked against."""

from typing import TYPE_CHECKING

from haste_compiler.lazy import on_demand

if TYPE_CHECKING:
    from haste_compiler.haste.api import (
        ConvGeometry,
        Groups,
        HasteConv2d,
        HasteResult,
        MacCount,
        Settings,
        apply_activation,
        count_channels,
        count_macs,
        draw_hyperplanes,
        error_bound,
        extract_windows,
        filter_norms,
        group_windows,
        hash_windows,
        haste_conv2d,
        merge_windows,
        rebuild_windows,
        swap_convs,
        window_geometry,
        window_mask,
    )

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
    __getattr__ = on_demand(__name__, {"haste_compiler.haste.api": __all__})
