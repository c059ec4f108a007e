"""What changes of layers are predicted to do to the outputs, against running the network with them."""

import math

import pytest
import torch
from torch import Tensor, fx, nn

from haste_compiler.graph.capture import capture
from haste_compiler.graph.nodes import is_call, layer_name
from haste_compiler.methods.traced import Traced, probes
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.ops.linear import LINEAR
from haste_compiler.passes.pipeline import rewrite

X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Branches(nn.Module):
    """All operators of ours, and two outputs, one of which reads half of the layers only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.shuffle = nn.ChannelShuffle(4)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.last = nn.Conv2d(8, 4, 3)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.tanh(self.stem(x))
        x = self.shuffle(torch.tanh(self.norm(torch.cat([self.left(x) + x, x], 1))))
        return self.last(torch.tanh(self.up(x))), self.head(x.mean(dim=(2, 3)))


def traced(model: nn.Module, x: Tensor = X) -> tuple[Traced, list[fx.Node]]:
    gm = rewrite(capture(model.eval(), (x,)))
    nodes = [node for node in gm.graph.nodes if is_call(node, CONV2D, LINEAR)]
    return Traced(gm, nodes, [x]), nodes


@pytest.fixture(scope="module")
def branches() -> nn.Module:
    torch.manual_seed(0)
    return Branches().eval()


def test_it_computes_what_the_model_does(branches: nn.Module) -> None:
    run, nodes = traced(branches)
    for found, expected in zip(run.outputs, branches(X), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert [layer_name(node) for node in nodes] == ["stem", "left", "last", "head"]
    assert run.error(run.run_with({})) < 1e-6


@pytest.mark.parametrize("inference", [False, True])
def test_small_changes_do_what_is_predicted(branches: nn.Module, inference: bool) -> None:
    """Within 30 % by 64 probes: there are far more outputs."""
    with torch.inference_mode(inference):
        run, nodes = traced(branches)
        changes = [1e-3 * torch.randn_like(run.values[node]) for node in nodes]
        gradients = [run.pulled_back(parts) for parts in probes(run.outputs, 64, 0)]

    def predicted(which: list[int]) -> float:
        return math.sqrt(sum(sum(float((g[at] * changes[at]).sum()) for at in which) ** 2 for g in gradients))

    def true(at: int) -> float:
        found = run.run_with({nodes[at]: lambda _: run.values[nodes[at]] + changes[at]})
        pairs = zip(found, run.outputs, strict=True)
        return math.sqrt(sum(float((a - b).norm() / b.norm()) ** 2 for a, b in pairs))

    for at in range(len(nodes)):
        assert predicted([at]) == pytest.approx(true(at), rel=0.3)
    # The last convolution and the head change an output each: their errors don't meet.
    assert predicted([2, 3]) == pytest.approx(math.hypot(predicted([2]), predicted([3])), rel=0.3)


def test_few_outputs_are_predicted_exactly() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    run, nodes = traced(model)
    change = 1e-3 * torch.randn_like(run.values[nodes[0]])
    squares = [float((run.pulled_back(v)[0] * change).sum()) ** 2 for v in probes(run.outputs, 8, 0)]
    assert len(squares) == 6
    true = run.error(run.run_with({nodes[0]: lambda _: run.values[nodes[0]] + change}))
    assert math.sqrt(sum(squares)) == pytest.approx(true, rel=0.01)


def test_a_layer_that_no_output_reads_has_no_effect(branches: nn.Module) -> None:
    """``last`` reads nothing of the head."""
    run, _ = traced(branches)
    only_first = [torch.ones_like(run.outputs[0]), torch.zeros_like(run.outputs[1])]
    assert not run.pulled_back(only_first)[3].any()


def test_an_output_that_is_not_finite_is_an_infinite_error(branches: nn.Module) -> None:
    run, nodes = traced(branches)
    assert run.error(run.run_with({nodes[0]: lambda _: torch.full_like(run.values[nodes[0]], math.nan)})) == math.inf
