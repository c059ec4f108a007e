"""Small tools that every pass needs: constants of a graph, new nodes with their shapes, clearing away."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.fx.node import Argument, map_arg

from haste_compiler.errors import CaptureError, UnsupportedOperatorError

Target = Callable[..., Any]

METHOD = "made_by"
"""In ``meta`` of calls that a method made of its own operators: the method's name."""

LEFT_TO_PYTORCH = "left_to_pytorch"
"""In ``meta`` of calls that PyTorch is to run, though there may be kernels."""

TRANSPOSED = (
    torch.ops.aten.conv_transpose1d.default,
    torch.ops.aten.conv_transpose2d.input,
    torch.ops.aten.conv_transpose3d.input,
)
"""Transposed convolutions as PyTorch captures them: their filters are stored the other way round."""

CONVOLUTIONS = (
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv1d.padding,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv2d.padding,
    torch.ops.aten.conv3d.default,
    torch.ops.aten.conv3d.padding,
    torch.ops.aten.convolution.default,
    *TRANSPOSED,
)
"""Convolutions as PyTorch captures them."""


def is_call(node: object, *targets: Target) -> TypeGuard[fx.Node]:
    """Whether ``node`` is a node that calls one of ``targets``."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def is_constant(node: object) -> TypeGuard[fx.Node]:
    """Whether ``node`` is a node that reads a tensor of the module (a parameter or a buffer)."""
    return is_tensor(node) and node.op == "get_attr"


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """The argument of a call, given by position or by name; ``default`` where it is left out."""
    if position < len(node.args):
        return node.args[position]
    return node.kwargs.get(name, default)


def joined_channels(x: object) -> list[fx.Node] | None:
    """The tensors (N, Cp, H, W) that ``x`` joins along their channels; None if it is no such join."""
    if not is_call(x, torch.ops.aten.cat.default) or argument(x, 1, "dim", 0) % 4 != 1:
        return None
    return list(argument(x, 0, "tensors"))


def layer_name(node: fx.Node) -> str:
    """The layer that a node came from; the node's own name where none is recorded."""
    return str(node.meta.get("layer") or node.name)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's tensor; where the batch is dynamic, its shape for the example inputs' batch."""
    return tuple(example_size(size) for size in node.meta["val"].shape)


def example_size(size: int | torch.SymInt) -> int:
    """A size for the example inputs; asking a symbolic one for its integer would fix it."""
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def reshape_sizes(node: fx.Node) -> list[int]:
    """The shape of a node's tensor as ``reshape`` takes it: -1 for the size that isn't fixed, if there is one."""
    return [-1 if isinstance(size, torch.SymInt) else int(size) for size in node.meta["val"].shape]


def is_tensor(node: object) -> TypeGuard[fx.Node]:
    """Whether ``node`` is a node that has one tensor as its value."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor)


def is_size(node: object) -> bool:
    """Whether ``node`` is a call whose value is a number that depends on a dynamic batch."""
    symbolic = torch.SymInt | torch.SymFloat | torch.SymBool
    return isinstance(node, fx.Node) and node.op == "call_function" and isinstance(node.meta.get("val"), symbolic)


def get_tensor(gm: fx.GraphModule, node: fx.Node) -> Tensor:
    """The tensor that a ``get_attr`` node reads, without gradient."""
    owner, _, name = str(node.target).rpartition(".")
    tensor = getattr(gm.get_submodule(owner), name)
    assert isinstance(tensor, Tensor)
    return tensor.detach()


def number_of(gm: fx.GraphModule, value: Any) -> float | None:
    """A number, or what a constant of one element holds, as exporters write numbers; None for anything else."""
    if isinstance(value, int | float):
        return float(value)
    if is_constant(value) and value.meta["val"].numel() == 1:
        return float(get_tensor(gm, value).item())
    return None


def set_tensor(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Register ``tensor`` as the buffer of the qualified ``name``, making empty modules on the way to it."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.register_buffer(last, tensor)


def add_tensor(gm: fx.GraphModule, name: str, tensor: Tensor, fake_like: fx.Node) -> fx.Node:
    """Register a new buffer and read it at the graph's insertion point.

    Args:
        gm: the module; the buffer is a detached, contiguous tensor of it, on the device of ``fake_like``.
        name: qualified name wanted; a number is added where it is taken.
        tensor: the value.
        fake_like: any node with a tensor value, for the device and the fake mode that shapes are kept in.

    Returns:
        The ``get_attr`` node.
    """
    unique, number = name, 1
    while _is_taken(gm, unique):
        unique, number = f"{name}_{number}", number + 1
    like = fake_like.meta["val"]
    tensor = tensor.detach().contiguous().to(like.device)
    set_tensor(gm, unique, tensor)
    node = gm.graph.get_attr(unique)
    node.meta["val"] = like.fake_mode.from_tensor(tensor, static_shapes=True)
    return node


def _is_taken(module: nn.Module, name: str) -> bool:
    *path, last = name.split(".")
    for part in path:
        if part not in module._modules:
            return hasattr(module, part)
        module = module.get_submodule(part)
    return hasattr(module, last)


def insert_call(gm: fx.GraphModule, target: Target, args: tuple[Argument, ...], source: fx.Node) -> fx.Node:
    """Insert a call at the graph's insertion point, with its shape and with where it came from (that of ``source``)."""
    node = gm.graph.call_function(target, args)
    node.meta = {key: copy.copy(value) for key, value in source.meta.items() if key in _ORIGIN}
    node.meta["val"] = fake_value(node)
    return node


_ORIGIN = ("layer", "nn_module_stack", "stack_trace", "source_fn_stack", "torch_fn")


def fake_value(node: fx.Node) -> Any:
    """What a call returns for its arguments' fake tensors: shapes and dtypes, nothing computed."""
    assert callable(node.target)
    fakes = [value.meta["val"] for value in node.all_input_nodes if isinstance(value.meta.get("val"), Tensor)]
    args = map_arg(node.args, lambda value: value.meta["val"])
    kwargs = map_arg(node.kwargs, lambda value: value.meta["val"])
    if not fakes:
        return node.target(*args, **kwargs)
    with torch.no_grad(), fakes[0].fake_mode:
        return node.target(*args, **kwargs)


def replace(node: fx.Node, new: fx.Node) -> None:
    """Let ``new`` take the place of ``node`` for everyone, and erase ``node``.

    Raises:
        CaptureError: a size that depends on the dynamic batch would be fixed.
    """
    if is_tensor(node) and is_tensor(new):
        before, after = node.meta["val"].shape, new.meta["val"].shape
        if any(isinstance(size, torch.SymInt) for size in before) and not _same_sizes(before, after):
            refuse_dynamic(node)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def _same_sizes(before: Sequence[Any], after: Sequence[Any]) -> bool:
    pairs = zip(before, after, strict=False)
    return len(before) == len(after) and all(statically_known_true(a == b) for a, b in pairs)


def refuse_dynamic(node: fx.Node) -> NoReturn:
    """Raise the ``CaptureError`` for an operator that is compiled for one batch only."""
    raise CaptureError(
        f"{node.target} of layer {layer_name(node)!r} can't be compiled for a dynamic batch: "
        "it takes images by their number or place in the batch"
    )


def sole_user(node: fx.Node) -> fx.Node | None:
    """The one node that uses ``node``, if there is exactly one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def finish(gm: fx.GraphModule) -> fx.GraphModule:
    """Drop unused nodes and buffers, check the graph and generate the module's code anew."""
    gm.graph.eliminate_dead_code()
    _remove_unused_tensors(gm)
    gm.graph.lint()
    gm.recompile()
    return gm


def copy_module(gm: fx.GraphModule) -> fx.GraphModule:
    """Copy the graph of ``gm`` but share its tensors: passes replace tensors, and never change them."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(gm.graph, {}))
    graph.set_codegen(gm.graph._codegen)
    return fx.GraphModule(gm, graph)


def _tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _remove_unused_tensors(gm: fx.GraphModule) -> None:
    used = {str(node.target) for node in gm.graph.nodes if node.op == "get_attr"}
    for name, _ in list(_tensors(gm)):
        if name not in used:
            owner, _, last = name.rpartition(".")
            delattr(gm.get_submodule(owner), last)
    # Innermost first, so that a module is empty by the time that its own turn comes.
    for name, module in reversed(list(gm.named_modules())):
        empty = not module._parameters and not module._buffers and not module._modules
        if name and empty and name not in used:
            owner, _, last = name.rpartition(".")
            delattr(gm.get_submodule(owner), last)


def unsupported(node: fx.Node, why: str) -> UnsupportedOperatorError:
    """The error that says why an operator can't be compiled."""
    return UnsupportedOperatorError(f"operator {node.target} of layer {layer_name(node)!r} can't be compiled: {why}")


def drop_other_outputs(gm: fx.GraphModule) -> dict[int, Any]:
    """Leave only tensors among a graph's outputs; return the rest (numbers, None) by position."""
    output = gm.graph.output_node()
    leaves = output.args[0]
    assert isinstance(leaves, Sequence)
    output.args = (tuple(leaf for leaf in leaves if isinstance(leaf, fx.Node)),)
    return {position: leaf for position, leaf in enumerate(leaves) if not isinstance(leaf, fx.Node)}
