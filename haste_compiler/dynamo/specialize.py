"""A region for one set of shapes and weights, compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import tvm
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_flatten

from haste_compiler.codegen.machine import Machine
from haste_compiler.compiler import Options, compile_captured
from haste_compiler.dynamo import openmp
from haste_compiler.graph.capture import Captured, module_path, unique_name
from haste_compiler.graph.nodes import CONVOLUTIONS, finish, is_call
from haste_compiler.methods.configs import Configs
from haste_compiler.runtime.executable import Executable


def specialize(
    gm: fx.GraphModule,
    tensors: Sequence[Tensor],
    weights: Sequence[Tensor],
    sizes: Sequence[int],
    machine: Machine,
    configs: Configs,
) -> Executable:
    """Compile a region.

    Args:
        gm: its graph: placeholders for tensors, then weights, then sizes.
        tensors: inputs of the shapes that it is compiled for.
        weights: become part of what is compiled.
        sizes: what the symbols are.
        machine: what code is made for.
        configs: of the methods; overrides that match no layer here are left out.

    Raises:
        HasteError: it can't be compiled.
    """
    device = weights[0].device.type
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
        plain = concretize(gm, tensors, weights, sizes)
        flat, in_spec = tree_flatten((tuple(tensors), {}))
        _, out_spec = tree_flatten(tuple(plain.graph.output_node().args[0]))  # type: ignore[arg-type]
        captured = Captured(plain, in_spec, out_spec, "the region")
        names = [str(node.meta["layer"]) for node in plain.graph.nodes if is_call(node, *CONVOLUTIONS)]
        executable = compile_captured(captured, flat, Options(configs.only_for(names), machine)).executable
    if executable.device == tvm.cpu():
        executable.pool = openmp.attach(executable.code)
    return executable


def concretize(
    gm: fx.GraphModule, tensors: Sequence[Tensor], weights: Sequence[Tensor], sizes: Sequence[int]
) -> fx.GraphModule:
    """The same graph with numbers for sizes, buffers for weights, and shapes and layers' names at every node."""
    mode = FakeTensorMode()
    root, graph = nn.Module(), fx.Graph()
    copies: dict[fx.Node, Any] = {}
    taken: set[str] = set()
    given = iter([*tensors, *weights, *sizes])
    for index, node in enumerate(gm.graph.nodes):
        if node.op == "output":
            graph.output(fx.map_arg(node.args[0], copies.__getitem__))
        elif node.op == "placeholder":
            value = next(given)
            if not isinstance(value, Tensor):
                copies[node] = value
            elif index < len(tensors):
                copies[node] = graph.placeholder(node.name)
                copies[node].meta["val"] = mode.from_tensor(value.detach(), static_shapes=True)
            else:
                root.register_buffer(node.name, value.detach())
                copies[node] = graph.get_attr(node.name)
                copies[node].meta["val"] = mode.from_tensor(value.detach(), static_shapes=True)
        else:
            args, kwargs = (fx.map_arg(part, copies.__getitem__) for part in (node.args, node.kwargs))
            fakes = [fx.map_arg(part, lambda copy: copy.meta["val"]) for part in (args, kwargs)]
            with mode:
                value = node.target(*fakes[0], **fakes[1])
            if isinstance(value, int):
                copies[node] = value
                continue
            copies[node] = graph.call_function(node.target, args, kwargs)
            copies[node].meta = {"val": value, "layer": _layer(node, taken)}
    return finish(fx.GraphModule(root, graph))


def _layer(node: fx.Node, taken: set[str]) -> str:
    path = module_path(node)
    if not is_call(node, *CONVOLUTIONS, torch.ops.aten.linear.default):
        return path
    kinds = [kind for _, kind in (node.meta.get("nn_module_stack") or {}).values()]
    known = bool(kinds) and isinstance(kinds[-1], type) and issubclass(kinds[-1], nn.modules.conv._ConvNd | nn.Linear)
    return unique_name(path if known else node.name, taken)
