"""Why a model can't be called with some inputs, in terms of what its user gave."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map_only

from haste_compiler.errors import InputError, first_line
from haste_compiler.graph.quiet import quiet

_QUANTISED = ("torch.ao.nn.", "torch.nn.quantized", "torch.nn.intrinsic.quantized")
_WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)
_PLANES = {1: "L", 2: "H, W", 3: "D, H, W"}


def check_model(model: nn.Module) -> None:
    """Check what holds whatever a model is called with.

    Raises:
        InputError: it is scripted, or weights have no values.
    """
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"the model is a {name} of torch.jit: allowed is the torch.nn.Module that it was made from")
    for key, value in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(value):
            raise InputError(
                f"{key!r} of {name} has no values yet: a lazy layer gets them when the model is first called"
            )
        if value.is_meta:
            raise InputError(f"{key!r} of {name} is on the device meta, where it has no values: load the weights first")


def explain_failure(model: nn.Module, inputs: Sequence[Any]) -> InputError | None:
    """Say what is wrong with inputs that a model fails on; None where that isn't known.

    The model is called again, on fake tensors: nothing is computed.

    Args:
        model: in evaluation mode.
        inputs: its positional arguments.
    """
    name = type(model).__name__
    try:
        inspect.signature(model.forward).bind(*inputs)
    except TypeError as error:
        return InputError(f"{name} can't be called with {len(inputs)} inputs: {error}")
    for path, module in model.named_modules():
        if type(module).__module__.startswith(_QUANTISED):
            return InputError(f"layer {path!r} of {name} is quantised: networks are compiled from float32 weights")
    found = _innermost(model, inputs)
    if found is None:
        return None
    (path, module, given), cause = found
    layer = f"layer {path!r}" if path else name
    if not isinstance(given, Tensor):
        return InputError(f"{layer} takes a tensor, but is given {type(given).__name__}")
    tensors = [leaf for leaf in tree_leaves(tuple(inputs)) if isinstance(leaf, Tensor)]
    same = [index for index, tensor in enumerate(tensors) if tensor.shape == given.shape]
    shape = tuple(given.shape)
    if isinstance(module, _WEIGHTED) and module.weight is not None and module.weight.dtype != given.dtype:
        dtype = module.weight.dtype
        return InputError(f"{layer} has weights of {dtype}, but is given {given.dtype}: both must be the same")
    allowed = _allowed(module, shape)
    if allowed is not None and same:
        return InputError(f"input {same[0]} has shape {shape}: {layer} takes {allowed}")
    sizes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
    if allowed is not None:
        return InputError(f"inputs of shape {sizes} don't fit {name}: {layer} takes {allowed}, but is given {shape}")
    if type(module).__module__.startswith("torch.nn."):
        return InputError(f"inputs of shape {sizes} don't fit {name}: {layer}, given {shape}: {first_line(cause)}")
    return None


def _innermost(model: nn.Module, inputs: Sequence[Any]) -> tuple[tuple[str, nn.Module, Any], Exception] | None:
    """The innermost module whose call fails, by name, and its first argument; and the error."""
    running: list[tuple[str, nn.Module, Any]] = []

    def enter(path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        running.append((path, module, args[0] if args else None))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        running.pop()

    hooks: list[Callable[[], None]] = []
    for path, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(functools.partial(enter, path)).remove)
        hooks.append(module.register_forward_hook(leave).remove)
    try:
        with quiet(), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            model(*tree_map_only(Tensor, mode.from_tensor, tuple(inputs)))
    except Exception as error:
        return (running[-1], error) if running else None
    finally:
        for remove in hooks:
            remove()
    return None


def _allowed(module: nn.Module, shape: tuple[int, ...]) -> str | None:
    """The shapes that a layer takes, where a tensor's isn't one of them."""
    if isinstance(module, nn.Linear):
        return None if shape[-1:] == (module.in_features,) else f"(…, {module.in_features})"
    if isinstance(module, nn.modules.conv._ConvNd):
        dimensions, channels = len(module.kernel_size), module.in_channels
    elif isinstance(module, nn.BatchNorm2d):
        dimensions, channels = 2, module.num_features
    else:
        return None
    fits = len(shape) == dimensions + 2 and shape[1] == channels
    return None if fits else f"(N, {channels}, {_PLANES[dimensions]})"
