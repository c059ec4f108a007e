"""Runs the passes one by one and holds the graph after each against the model."""

from collections import Counter
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.fx import Interpreter
from torch.utils._pytree import tree_flatten

from haste_compiler.graph.capture import capture
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.pipeline import run_passes

Model = TypeVar("Model", bound=nn.Module)


class _ShapeChecker(Interpreter):
    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if isinstance(value, Tensor):
            expected = node.meta["val"]
            assert value.shape == expected.shape and value.dtype == expected.dtype, node.format_node()
        return value


def assert_same(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """The same structure, and tensors equal within a fraction of their norm."""
    actual_leaves, actual_spec = tree_flatten(actual)
    expected_leaves, expected_spec = tree_flatten(expected)
    assert actual_spec == expected_spec
    for mine, theirs in zip(actual_leaves, expected_leaves, strict=True):
        if not isinstance(theirs, Tensor):
            assert mine == theirs
            continue
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        found, wanted = mine.double(), theirs.double()
        finite = wanted.isfinite()
        assert torch.equal(found[~finite].nan_to_num(nan=0.5), wanted[~finite].nan_to_num(nan=0.5))
        found, wanted = found[finite], wanted[finite]
        error = (found - wanted).norm()
        assert error <= tolerance * wanted.norm() + 1e-7, f"error {error} of {wanted.norm()}"


def check_passes(
    model: nn.Module, *inputs: Tensor, config: HasteConfig | None = None, tolerance: float = 1e-5
) -> fx.GraphModule:
    """Run all passes (dense by default) and check that after each the graph prints, runs and gives the model's result.

    Returns:
        The final graph.
    """
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model(*[x.clone() for x in inputs])
    captured = capture(model, inputs)

    def observe(name: str, gm: fx.GraphModule) -> None:
        assert str(gm.graph) and gm.print_readable(print_output=False)
        leaves = _ShapeChecker(gm).run(*[x.clone() for x in inputs], enable_io_processing=False)
        for node in gm.graph.nodes:
            assert node.op == "output" or "val" in node.meta, f"{node} has no shape after {name}"
        assert_same(captured.unflatten_outputs(leaves), expected, tolerance)
        assert_same(gm(*[x.clone() for x in inputs]), expected, tolerance)

    observe("capture", captured.gm)
    gm = run_passes(captured, config or HasteConfig(enabled=False), observe)
    assert_same(captured.gm(*[x.clone() for x in inputs]), expected, tolerance)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the model was changed"
    return gm


def calls(gm: fx.GraphModule) -> Counter[str]:
    """How often each operator is called, by its short name such as "haste.conv2d"."""
    names = (str(node.target) for node in gm.graph.nodes if node.op == "call_function")
    return Counter("getitem" if "getitem" in name else ".".join(name.split(".")[:2]) for name in names)


def nodes(gm: fx.GraphModule, name: str) -> list[fx.Node]:
    """The calls of the operator with that short name."""
    return [node for node in gm.graph.nodes if node.op == "call_function" and str(node.target).startswith(f"{name}.")]


class Fn(nn.Module):
    """A module around a function, with submodules that it may use."""

    def __init__(self, function: Any, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def settled(model: Model) -> Model:
    """Give batch norms statistics and affine parameters that are not the trivial ones; evaluation mode."""
    generator = torch.Generator().manual_seed(3)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.copy_(uniform(module.running_mean, -1, 1))
            module.running_var.copy_(uniform(module.running_var, 0.5, 2))
            if module.affine:
                module.weight.data.copy_(uniform(module.weight, -1.5, 1.5))
                module.bias.data.copy_(uniform(module.bias, -1, 1))
    return model.eval()
