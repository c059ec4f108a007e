"""From TorchDynamo's graph to a functional graph of ATen operators, sizes symbolic where TorchDynamo's are."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.fx.traceback
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx

from haste_compiler.errors import CaptureError
from haste_compiler.graph.functionalize import drop_dropouts, functionalize, is_simply_functional, writes_to_inputs
from haste_compiler.graph.nodes import argument, copy_module, is_call

aten = torch.ops.aten

_MODES = ("_enter_autocast", "_exit_autocast", "_enter_inference_mode", "_exit_inference_mode")


def trace(gm: fx.GraphModule) -> fx.GraphModule:
    """Trace a graph that TorchDynamo handed to a backend, as it runs without gradients.

    The placeholders stay as they are, in their order; their nodes have ``meta["val"]`` like all others. Composite
    operators (``linear``, ``conv2d``, ``batch_norm``) stay whole.

    Raises:
        CaptureError: the graph writes to its inputs, trains, or switches modes on its way. It must stay as it is.
    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    fakes = [node.meta["example_value"] for node in placeholders]
    modes = [value.fake_mode for value in fakes if isinstance(value, FakeTensor)]
    if not modes:
        raise CaptureError("the graph has no tensors")
    if any(getattr(node.target, "__name__", "") in _MODES for node in gm.graph.nodes):
        raise CaptureError("the graph switches autocast or inference mode on its way")
    with contextlib.ExitStack() as stack:
        stack.enter_context(modes[0])
        stack.enter_context(enable_python_dispatcher())
        stack.enter_context(torch.fx.traceback.preserve_node_meta())
        stack.enter_context(torch.no_grad())
        traced = make_fx(_Numbers(gm).run, pre_dispatch=True)(*fakes)
    for node, original in zip(traced.graph.find_nodes(op="placeholder"), placeholders, strict=True):
        node.meta["val"] = original.meta["example_value"]
    for node in list(traced.graph.nodes):
        if node.target is torch._C._set_grad_enabled:
            traced.graph.erase_node(node)
    drop_dropouts(traced.graph)
    _refuse_training(traced)
    if writes_to_inputs(traced):
        raise CaptureError("the graph writes to its inputs")
    if not is_simply_functional(traced):
        raise CaptureError("the graph writes to a tensor through one of its views")
    functionalize(traced, "the graph")
    traced.graph.eliminate_dead_code()
    return traced


def lift_constants(gm: fx.GraphModule) -> tuple[fx.GraphModule, dict[str, Tensor]]:
    """A copy of a graph with placeholders, the last ones, for its own tensors, and these by their qualified names.

    TorchDynamo makes parameters a graph's own where ``torch._inductor.config.freezing`` is on.
    """
    lifted = copy_module(gm)
    tensors: dict[str, Tensor] = {}
    for node in lifted.graph.find_nodes(op="get_attr"):
        owner, _, name = str(node.target).rpartition(".")
        value = getattr(gm.get_submodule(owner), name)
        if isinstance(value, Tensor):
            tensors.setdefault(str(node.target), value)
    placeholders = lifted.graph.find_nodes(op="placeholder")
    modes = [fake.fake_mode for node in placeholders if isinstance(fake := node.meta.get("example_value"), FakeTensor)]
    if not tensors or not modes:
        return lifted, {}
    last = placeholders[-1]
    for target, value in tensors.items():
        with lifted.graph.inserting_after(last):
            last = lifted.graph.placeholder(target.replace(".", "_"))
        last.meta["example_value"] = modes[0].from_tensor(value, static_shapes=True)
        for node in lifted.graph.find_nodes(op="get_attr", target=target):
            node.replace_all_uses_with(last)
            lifted.graph.erase_node(node)
    lifted.recompile()
    return lifted, tensors


class _Numbers(fx.Interpreter):
    """Takes floating-point numbers, which ``dynamic=True`` makes symbols, for constants (and adds guards for them)."""

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        return float(value) if isinstance(value, torch.SymFloat) and value.node.hint is not None else value


def _refuse_training(gm: fx.GraphModule) -> None:
    for node in gm.graph.nodes:
        if is_call(node, aten.batch_norm.default) and argument(node, 5, "training") and argument(node, 3, "mean"):
            raise CaptureError("a batch norm is in training mode")
        if is_call(node, aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default):
            raise CaptureError("a dropout is in training mode")
