"""Replacing the convolutions of a model in plain PyTorch, without compiling it."""

from __future__ import annotations

import copy

from torch import nn

from haste_compiler.errors import UnsupportedOperatorError
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.reference.module import HasteConv2d


def is_eligible(conv: nn.Conv2d, config: HasteConfig) -> bool:
    """Whether a convolution is merged: not depthwise, and as large as ``min_channels`` and ``min_reads`` ask for."""
    per_group, (kh, kw), (sh, sw) = conv.in_channels // conv.groups, conv.kernel_size, conv.stride
    worth = per_group >= config.min_channels and kh * kw >= config.min_reads * sh * sw
    return config.enabled and per_group > 1 and worth


def swap_convs(model: nn.Module, config: HasteConfig | None = None) -> nn.Module:
    """Return a copy of a model in which every eligible ``nn.Conv2d`` is a ``HasteConv2d``.

    Args:
        model: any module; left as it is. A convolution that it uses in several places is replaced in all of them.
        config: the default configuration if None; ``layers`` go by qualified module names.

    Raises:
        ConfigError: a key of ``config.layers`` matches no eligible convolution.
        UnsupportedOperatorError: a convolution to replace has forward hooks, which would be lost.
    """
    config = config or HasteConfig()
    model = copy.deepcopy(model)
    convs = {name: module for name, module in model.named_modules() if type(module) is nn.Conv2d}
    able = config.replace(enabled=True, layers={})
    config.check_layers(name for name, conv in convs.items() if is_eligible(conv, able))
    replaced: dict[nn.Module, HasteConv2d] = {}
    for name, conv in convs.items():
        layer = config.for_layer(name)
        if is_eligible(conv, layer):
            if conv._forward_hooks or conv._forward_pre_hooks:
                raise UnsupportedOperatorError(
                    f"{name or 'the convolution'} has forward hooks, which a HASTE convolution would lose: remove them "
                    "before the swap and register them after it, or leave the layer dense (enabled=False)"
                )
            replaced[conv] = HasteConv2d.from_conv(conv, layer, name)
    if model in replaced:
        return replaced[model]
    for parent in list(model.modules()):
        # Not named_children: it names a module that stands in several places only once.
        for key, child in parent._modules.items():
            if child in replaced:
                parent._modules[key] = replaced[child]
    return model
