"""Our operators as what they are written in, PyTorch's own, which autograd goes through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from haste_compiler.ops.affine import affine
from haste_compiler.ops.channel_shuffle import channel_shuffle
from haste_compiler.ops.conv2d import conv2d
from haste_compiler.ops.conv_transpose2d import conv_transpose2d
from haste_compiler.ops.linear import linear

EAGER: Mapping[Any, Callable[..., Any]] = {
    each._opoverload: each._init_fn for each in (affine, channel_shuffle, conv2d, conv_transpose2d, linear)
}
"""What each computes, by the operator as a node's target has it."""
