"""What each layer of a network will be compiled to, as far as training has to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from haste_compiler.graph.capture import capture
from haste_compiler.graph.nodes import is_call, layer_name
from haste_compiler.methods.quantized.config import QuantizedConfig
from haste_compiler.methods.quantized.reference.direct import by_pixels
from haste_compiler.methods.quantized.signs import is_nonnegative
from haste_compiler.methods.quantized.sites import eligibility, geometry_of, plain_call
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.ops.linear import LINEAR
from haste_compiler.passes.pipeline import rewrite


@dataclass(frozen=True)
class LayerSite:
    """A convolution or linear layer.

    Attributes:
        pointwise: a 1×1 convolution in which every filter reads every channel of its group, of which there are several.
        linear: a linear layer.
        axes: of its input that share a scale; None: its input stays float32, as depthwise convolutions' do.
        nonnegative: no input is negative, in any of its calls.
    """

    pointwise: bool
    linear: bool
    axes: tuple[int, ...] | None
    nonnegative: bool


def layer_sites(model: nn.Module, example_inputs: Sequence[Any]) -> dict[str, LayerSite]:
    """The layers that are modules of their own, by their qualified names.

    Args:
        model: any module that ``torch.export`` captures; it is left as it is.
        example_inputs: its positional arguments.

    Raises:
        CaptureError: it can't be captured.
    """
    gm = rewrite(capture(model, example_inputs))
    kinds = {name: type(module) for name, module in model.named_modules()}
    found: dict[str, LayerSite] = {}
    for node in gm.graph.nodes:
        # "layer#2" is the second call of a layer.
        name = layer_name(node).split("#")[0]
        if is_call(node, CONV2D, LINEAR) and issubclass(kinds.get(name, object), (nn.Conv2d, nn.Linear)):
            site, known = _site(node), found.get(name)
            both = known is None or known.nonnegative
            found[name] = LayerSite(site.pointwise, site.linear, site.axes, site.nonnegative and both)
    return found


def _site(node: fx.Node) -> LayerSite:
    geometry = geometry_of(node)
    linear = node.target is LINEAR
    axes = ((-1,) if linear else (1,) if by_pixels(geometry) else (1, 3)) if eligibility(node, _ANY)[0] else None
    pointwise = not linear and geometry.taps == 1 and not geometry.is_depthwise
    return LayerSite(pointwise, linear, axes, is_nonnegative(plain_call(node).x))


_ANY = QuantizedConfig()
