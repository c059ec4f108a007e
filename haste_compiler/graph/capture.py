"""Capture: a model becomes one FX graph of ATen operators that owns its tensors."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._pytree import SUPPORTED_NODES, TreeSpec, tree_flatten, tree_unflatten

from haste_compiler.errors import CaptureError, first_line
from haste_compiler.graph.decompose import decompositions, needs_decomposing
from haste_compiler.graph.dynamic import BatchRange
from haste_compiler.graph.dynamic_shapes import batch_symbol, export_shapes, run_fake, shapes_for, violation
from haste_compiler.graph.explain_failure import check_model, explain_failure
from haste_compiler.graph.functionalize import drop_dropouts, functionalize, is_simply_functional, writes_to_inputs
from haste_compiler.graph.inline import inline_regions
from haste_compiler.graph.nodes import CONVOLUTIONS, finish, set_tensor
from haste_compiler.graph.numbers import read_numbers, told
from haste_compiler.graph.quiet import quiet

_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
_LINEAR = torch.ops.aten.linear.default


@dataclass(frozen=True)
class Captured:
    """A captured model.

    Attributes:
        gm: the graph. ``gm(*inputs)`` returns what the model returns; its output node holds a flat tuple.
        in_spec: structure of ``(args, kwargs)`` as ``torch.utils._pytree`` describes it.
        out_spec: structure of what the model returns; its leaves are the output node's flat tuple.
        name: the model's class.
        batch: the batches that it is captured for; None: that of the example inputs only.
        written: the inputs that the model writes to, by their names in the graph, which doesn't.
    """

    gm: fx.GraphModule
    in_spec: TreeSpec
    out_spec: TreeSpec
    name: str
    batch: BatchRange | None = None
    written: tuple[str, ...] = ()

    def flatten_inputs(self, inputs: Sequence[Any]) -> list[Any]:
        """The leaves of positional inputs, in the order of the graph's placeholders."""
        leaves, _ = tree_flatten((tuple(inputs), {}))
        return leaves

    def unflatten_outputs(self, leaves: Sequence[Any]) -> Any:
        """Rebuild what the model returns (tensor, tuple, list, dict, registered dataclass) from the flat outputs."""
        return tree_unflatten(list(leaves), self.out_spec)


def capture(
    model: nn.Module, example_inputs: Sequence[Any], *, strict: bool = False, batch: BatchRange | None = None
) -> Captured:
    """Capture a model, as it behaves in evaluation mode, by ``torch.export``.

    The model is left as it was: a model in training mode is switched for the time of the capture only, and the graph
    holds copies of its parameters and buffers. A model that changes its input in place is captured without that side
    effect; the result says so.

    Every node has ``meta["val"]`` (a fake tensor: shape and dtype), every call ``meta["layer"]``: the qualified name of
    the module that made it. Those of convolutions and linear layers are unique: a module called again gets "#2", "#3",
    and a functional call is named after its node, such as "conv2d_3".

    Args:
        model: any module.
        example_inputs: its positional arguments, tensors (or containers of tensors); they fix shapes and dtypes.
        strict: capture through TorchDynamo's bytecode analysis, which checks more and is slower.
        batch: capture for all of these batches; the example inputs have two images at least, and sizes in ``meta`` are
            expressions of one symbol.

    Raises:
        InputError: the model is scripted or has no values, or its inputs don't fit it.
        CaptureError: the model cannot be exported, has sizes that depend on values, or writes to its own buffers; or
            its code is for some of the batches only.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(f"capture takes a torch.nn.Module, not {type(model).__name__}")
    name = type(model).__name__
    if isinstance(example_inputs, Tensor) or not isinstance(example_inputs, Sequence):
        raise CaptureError(
            f"the example inputs of {name} must be a tuple of tensors, not {type(example_inputs).__name__}"
        )
    check_model(model)
    with torch.no_grad(), evaluation_mode(model):
        gm, spec, written = _export(model, name, tuple(example_inputs), strict, batch)
        symbol = None if batch is None else batch_symbol(gm, batch)
        if batch is not None and batch.least == 1:
            _check_single(model, tuple(example_inputs), batch, shapes_for(gm, symbol, 1))
    _own_tensors(gm)
    _name_layers(gm, model)
    _check_sizes(gm, name, symbol)
    return Captured(finish(gm), spec.in_spec, spec.out_spec, name, batch, written)


def _export(
    model: nn.Module, name: str, inputs: tuple[Any, ...], strict: bool, batch: BatchRange | None
) -> tuple[fx.GraphModule, torch.export.ModuleCallSignature, tuple[str, ...]]:
    shapes = None if batch is None else export_shapes(model, inputs, batch)
    try:
        with quiet(), _without_autocast():
            with _dataclasses_known(model, strict):
                program = _program(model, inputs, strict, shapes)
            drop_dropouts(program.graph_module.graph)
            gm = _module_of(program)
            written = _written(program) if writes_to_inputs(gm) else ()
            if needs_decomposing(gm.graph) or not is_simply_functional(gm):
                # Writes through views: PyTorch's own functionalization sorts them out, at the price of tracing again.
                gm = _module_of(program.run_decompositions(decompositions()))
    except Exception as error:
        if batch is not None and "Constraints violated" in str(error):
            raise CaptureError(f"{name} can't be captured for {batch.name!r} of {batch}: {violation(error)}") from error
        if (fault := explain_failure(model, inputs)) is not None:
            raise fault from error
        raise CaptureError(f"torch.export cannot capture {name}: {_reason(error)}") from error
    functionalize(gm, name)
    return gm, program.call_spec, written


def _program(model: nn.Module, inputs: tuple[Any, ...], strict: bool, shapes: Any) -> torch.export.ExportedProgram:
    """What ``torch.export`` makes; told the numbers that the code reads from tensors, where it can't do without."""
    try:
        return torch.export.export(model, inputs, strict=strict, dynamic_shapes=shapes)
    except GuardOnDataDependentSymNode:
        # Of another batch the numbers may be others.
        if strict or shapes is not None or not (numbers := read_numbers(model, inputs)).fixed:
            raise
    with told(model, numbers):
        return torch.export.export(model, inputs, strict=strict)


def _written(program: torch.export.ExportedProgram) -> tuple[str, ...]:
    """The inputs that a program writes to, as PyTorch's own functionalization finds them."""
    return tuple(program.run_decompositions({}).graph_signature.user_inputs_to_mutate.values())


def _module_of(program: torch.export.ExportedProgram) -> fx.GraphModule:
    gm = program.module(check_guards=False)
    assert isinstance(gm, fx.GraphModule)
    inline_regions(gm)
    return gm


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and every module of it back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    if any(training for _, training in modes):
        try:
            model.eval()
        except NotImplementedError:
            # An exported graph in it refuses to be switched, and need not be; what comes after it has to.
            for module, _ in modes:
                module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _without_autocast() -> Iterator[None]:
    """Capture a network as it computes by itself, whatever the caller's autocast says."""
    with contextlib.ExitStack() as stack:
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextlib.contextmanager
def _dataclasses_known(model: nn.Module, strict: bool) -> Iterator[None]:
    """Register the dataclasses that the model returns with PyTorch's pytree, which refuses what it does not know."""
    if strict:
        # TorchDynamo would trace the hook.
        yield
        return
    handle = model.register_forward_hook(lambda module, inputs, output: register_dataclasses(output))
    try:
        yield
    finally:
        handle.remove()


def register_dataclasses(value: Any) -> None:
    """Let PyTorch's pytrees know the dataclasses in a value, which they refuse otherwise."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value) not in SUPPORTED_NODES:
            torch.export.register_dataclass(type(value))
        value = [getattr(value, item.name) for item in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            register_dataclasses(item)


def _reason(error: BaseException) -> str:
    """One sentence: the first cause of ``error`` and the line of the user's code that it comes from."""
    chain = [error]
    while (cause := _cause(chain[-1])) is not None and cause not in chain:
        chain.append(cause)
    first = next((cause for cause in reversed(chain) if str(cause).strip()), error)
    if type(first).__name__ == "GuardOnDataDependentSymNode":
        message = "its control flow or shapes depend on the values in a tensor"
    else:
        message = f"{type(first).__name__}: {first_line(first).rstrip('.:')}"
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent), "<")
    places = [
        f"{Path(frame.filename).name}, line {frame.lineno}"
        for cause in chain
        for frame in traceback.extract_tb(cause.__traceback__)
        if not frame.filename.startswith(ours) and frame.name == "forward"
    ]
    return f"{message} (at {places[-1]})" if places else message


def _check_single(
    model: nn.Module, inputs: tuple[Any, ...], batch: BatchRange, expected: list[tuple[int, ...]]
) -> None:
    """Check that a batch of one, which ``torch.export`` never looks at, gives the shapes that it promises."""
    name = type(model).__name__
    advice = f"allowed are batches from 2 on: Dim({batch.name!r}, min=2) in dynamic_shapes"
    try:
        found = run_fake(model, inputs, batch, 1)
    except Exception as error:
        raise CaptureError(f"{name} fails for a batch of 1: {_reason(error)}; {advice}") from error
    if found != expected:
        raise CaptureError(f"{name} returns {found} for a batch of 1, not {expected} as for others; {advice}")


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _own_tensors(gm: fx.GraphModule) -> None:
    """Give the graph copies of the tensors it reads, so that it shares nothing with the user's model."""
    copies: dict[str, Tensor] = {}
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            value = _attribute(gm, str(node.target))
            if isinstance(value, Tensor):
                copies.setdefault(str(node.target), value.detach().clone())
                node.meta["val"] = _fake(node, copies[str(node.target)])
    for name in list(gm._modules):
        # Graphs of higher-order operators stay: their get_attr nodes read modules.
        if not isinstance(gm._modules[name], fx.GraphModule):
            delattr(gm, name)
    for name in [*gm._parameters, *gm._buffers]:
        delattr(gm, name)
    for name, tensor in copies.items():
        if hasattr(gm, name) and "." not in name:
            delattr(gm, name)
        set_tensor(gm, name, tensor)


def _attribute(root: nn.Module, target: str) -> Any:
    value: Any = root
    for part in target.split("."):
        value = getattr(value, part)
    return value


def _fake(node: fx.Node, tensor: Tensor) -> Any:
    for other in node.graph.nodes:
        value = other.meta.get("val")
        if other.op == "placeholder" and isinstance(value, torch._subclasses.FakeTensor):
            return value.fake_mode.from_tensor(tensor, static_shapes=True)
    return torch._subclasses.FakeTensorMode().from_tensor(tensor, static_shapes=True)


def _check_sizes(gm: fx.GraphModule, name: str, symbol: Any) -> None:
    for leaf in tree_flatten(gm.graph.output_node().args[0])[0]:
        if isinstance(leaf, fx.Node) and isinstance(leaf.meta["val"], _SYMBOLIC):
            raise CaptureError(f"{name} returns a number that isn't fixed; a compiled network returns tensors")
    for node in gm.graph.nodes:
        values, _ = tree_flatten(node.meta.get("val"))
        sizes = [size for value in values for size in (value.shape if isinstance(value, Tensor) else [value])]
        symbolic = [size for size in sizes if isinstance(size, _SYMBOLIC)]
        if any(not size.node.expr.free_symbols <= {symbol} for size in symbolic):
            layer = node.meta.get("layer")
            raise CaptureError(
                f"{name} has sizes that depend on the values in a tensor ({node.target}"
                f"{f' in {layer!r}' if layer else ''}); a compiled network's are fixed"
            )


def _name_layers(gm: fx.GraphModule, model: nn.Module) -> None:
    modules = dict(model.named_modules(remove_duplicate=False))
    first_names = {module: name for name, module in model.named_modules()}
    taken: set[str] = set()
    for node in gm.graph.nodes:
        if node.op != "call_function":
            continue
        path = module_path(node)
        if path in modules:
            path = first_names[modules[path]]
        if node.target in CONVOLUTIONS or node.target is _LINEAR:
            module = modules.get(path)
            known = isinstance(module, nn.modules.conv._ConvNd if node.target is not _LINEAR else nn.Linear)
            # A model that is itself the layer has no name: passes would call each of its nodes by another.
            path = unique_name(path if known and path else node.name, taken)
        node.meta["layer"] = path


def module_path(node: fx.Node) -> str:
    """Qualified name of the module that made a node; empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return ""
    path = str(list(stack.values())[-1][0])
    path = re.sub(r"@\d+", "", path)
    # TorchDynamo writes paths as Python expressions: L['self'].layer1[0].conv1, L['self']._modules['features'].
    path = re.sub(r"^L\['self'\]\.?", "", path)
    path = re.sub(r"(?:\._modules)?\['?([^'\]]+)'?\]", r".\1", path)
    return path.lstrip(".")


def unique_name(name: str, taken: set[str]) -> str:
    """``name``, with a number where it is in ``taken``, to which it is added."""
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name}#{number}"
    taken.add(unique)
    return unique
