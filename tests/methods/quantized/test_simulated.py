"""The stand-in in float32, against the operators that machine code is held to."""

from functools import partial

import pytest
import torch
from torch import nn

from haste_compiler.graph.capture import capture
from haste_compiler.graph.nodes import is_call, layer_name
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.methods.quantized.algorithm import Algorithm
from haste_compiler.methods.quantized.config import QuantizedConfig
from haste_compiler.methods.quantized.simulated import simulate
from haste_compiler.methods.quantized.sites import algorithms, geometry_of, may_quantize
from haste_compiler.methods.traced import Traced
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.ops.linear import LINEAR
from haste_compiler.passes.pipeline import rewrite
from tests.methods.quantized.test_rewrite import Mixed

X = torch.randn(2, 3, 30, 30, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bits", [8, 7])
@pytest.mark.parametrize("size", [0, 2, 4])
def test_every_layer_returns_what_its_operator_does(size: int, bits: int) -> None:
    """Up to values that lie between two integers, which rounding errors may move: far less than rounding changes."""
    torch.manual_seed(0)
    captured = capture(Mixed().eval(), (X,))
    gm = rewrite(captured)
    nodes = [node for node in gm.graph.nodes if is_call(node, CONV2D, LINEAR) and may_quantize(node)]
    run = Traced(gm, nodes, [X])
    tried = 0
    for node in nodes:
        config = QuantizedConfig(winograd=size, bits=bits, cost_model=False)
        algorithm = Algorithm(size, bits)
        if algorithm not in algorithms(geometry_of(node), config):
            continue
        others = {layer_name(each): {"enabled": False} for each in nodes if each is not node}
        alone = run_passes(captured, config.replace(layers=others))
        expected = alone(X)
        found = run.run_with({node: partial(simulate, node, algorithm)})[0]
        changed = (expected - run.outputs[0]).norm()
        assert changed > 0 and (found - expected).norm() < 0.02 * changed
        tried += 1
    assert tried


def test_nan_stays_nan() -> None:
    model = nn.Conv2d(3, 4, 3)
    gm = rewrite(capture(model, (X,)))
    (node,) = (node for node in gm.graph.nodes if is_call(node, CONV2D))
    run = Traced(gm, [node], [X * float("nan")])
    assert simulate(node, Algorithm(0), run.values).isnan().all()
