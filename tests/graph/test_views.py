"""A view whose strides are wrong makes a kernel read its neighbours."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from haste_compiler.graph.capture import capture
from haste_compiler.graph.views import view_of, written_as
from haste_compiler.passes.canonicalize import canonicalize

aten = torch.ops.aten

Step = tuple[str, list[int]]


class Steps(nn.Module):
    """A product, then views of it one after the other, then a product again."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        x = x * 2
        for name, numbers in self.steps:
            x = apply(x, name, numbers)
        return x * 3


def apply(x: Tensor, name: str, numbers: list[int]) -> Tensor:
    """A step, made to fit the tensor that it meets."""
    first, second = (number % x.dim() for number in numbers[:2])
    if name == "swap":
        return x.transpose(first, second)
    if name == "merge" and x.dim() > 1:
        start = min(first, x.dim() - 2)
        return x.flatten(start, start + 1)
    if name == "split":
        return x.unflatten(first, (1, -1) if x.shape[first] % 2 else (2, -1))
    if name == "slice" and x.shape[first] > 1:
        return x.narrow(first, 1, x.shape[first] - 1)
    if name == "select" and x.dim() > 1:
        return x.select(first, 0)
    return x


steps = st.lists(
    st.tuples(
        st.sampled_from(["swap", "merge", "split", "slice", "select"]),
        st.lists(st.integers(0, 5), min_size=2, max_size=2),
    ),
    min_size=1,
    max_size=5,
)


def products(gm: fx.GraphModule) -> tuple[fx.Node, fx.Node]:
    first, second = gm.graph.find_nodes(op="call_function", target=aten.mul.Tensor)
    return first, second


@settings(max_examples=25, deadline=None)
@given(steps, st.booleans())
def test_it_reads_what_the_operators_made(drawn: list[Step], nhwc: bool) -> None:
    """Of random chains: the base's memory, read by the strides, is the value; without a reshape nothing is copied."""
    model, x = Steps(drawn), torch.randn(2, 4, 3, 6)
    gm = canonicalize(capture(model, (x,)).gm)
    first, last = products(gm)
    view = view_of(last.all_input_nodes[0], lambda _: False, lambda node: nhwc and node is first)
    if view is None:
        assert any(name in ("merge", "split") for name, _ in drawn)
        return
    values = fx.Interpreter(gm, garbage_collect_values=False)
    values.run(x)
    memory = values.env[view.base]
    memory = memory.permute(0, 2, 3, 1) if nhwc and view.base is first else memory
    value = values.env[last.all_input_nodes[0]]
    read = torch.as_strided(memory.contiguous(), value.shape, view.strides, view.offset)
    torch.testing.assert_close(read, value)
    if all(name not in ("merge", "split") for name, _ in drawn):
        assert view.base is first


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["swap", "merge", "split"]), st.lists(st.integers(0, 5), min_size=2, max_size=2)),
        min_size=1,
        max_size=4,
    )
)
def test_it_writes_where_the_value_is_read(drawn: list[Step]) -> None:
    """What is written by the strides is, without another move, what a permutation farther down makes."""
    model, x = Steps(drawn), torch.randn(2, 4, 3, 6)
    gm = canonicalize(capture(model, (x,)).gm)
    first, _ = products(gm)
    target = written_as(first)
    assert target is not None
    memory = torch.full((x.numel(),), torch.nan)
    torch.as_strided(memory, x.shape, target.strides).copy_(x * 2)
    values = fx.Interpreter(gm, garbage_collect_values=False)
    values.run(x)
    value = values.env[target.base]
    torch.testing.assert_close(memory.reshape(value.shape), value)
