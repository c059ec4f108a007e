"""From a model to the graph that is compiled: capture, then one rewrite a file, each a function of a graph module."""

from haste_compiler.passes.canonicalize import canonicalize
from haste_compiler.passes.capture import Captured, capture
from haste_compiler.passes.channel_shuffle import fuse_channel_shuffle
from haste_compiler.passes.choose_layers import Predict, Sharing, choose_layers
from haste_compiler.passes.drop_taps import drop_taps
from haste_compiler.passes.extract_convs import extract_convs
from haste_compiler.passes.fold_batch_norm import fold_batch_norm
from haste_compiler.passes.fuse_affine import fuse_affine
from haste_compiler.passes.fuse_epilogue import fuse_epilogue
from haste_compiler.passes.layers import Choice, ConvLayer, Estimate, Prediction, conv_geometry, conv_layers
from haste_compiler.passes.linear import extract_linears
from haste_compiler.passes.narrow_shuffle import narrow_channel_shuffle
from haste_compiler.passes.pipeline import PASSES, Observer, Pass, run_passes
from haste_compiler.passes.resize import write_resizing
from haste_compiler.passes.rewrite_haste import rewrite_haste

__all__ = [
    "PASSES",
    "Captured",
    "Choice",
    "ConvLayer",
    "Estimate",
    "Observer",
    "Pass",
    "Predict",
    "Prediction",
    "Sharing",
    "canonicalize",
    "capture",
    "choose_layers",
    "conv_geometry",
    "conv_layers",
    "drop_taps",
    "extract_convs",
    "extract_linears",
    "fold_batch_norm",
    "fuse_affine",
    "fuse_channel_shuffle",
    "fuse_epilogue",
    "narrow_channel_shuffle",
    "rewrite_haste",
    "run_passes",
    "write_resizing",
]
