import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from haste_compiler.graph.capture import capture
from haste_compiler.methods.config import MethodConfig
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.pipeline import run_passes
from haste_compiler.methods.products import macs_counted, operations_counter
from haste_compiler.methods.quantized.config import QuantizedConfig
from haste_compiler.ops.attention import attention
from haste_compiler.validation import dense_macs, operator_macs
from tests import zoo
from tests.methods.haste.networks import SmallNet as MixedNet
from tests.validation.standin import SmallNet

QUICK = ("resnet18", "squeezenet1_1", "shufflenet_v2_x1_0", "convnext_tiny", "alexnet")


def flops(model: nn.Module, *inputs: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    return int(counter.get_total_flops())


def uninitialised(name: str) -> nn.Module:
    """One of the zoo's networks with whatever weights: counting does not read them."""
    if reason := zoo.missing_torchvision():
        pytest.skip(reason)
    from torchvision import models

    arguments = zoo._ARGUMENTS.get(name, {})
    if name.startswith("regnet"):  # computes its widths with tensors
        return models.get_model(name, weights=None, **arguments).eval()
    with torch.device("meta"):
        network: nn.Module = models.get_model(name, weights=None, **arguments)
    return network.to_empty(device="cpu").eval()


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in zoo.ZOO])
def test_counts_are_half_of_pytorchs_flops(name: str) -> None:
    model, x = uninitialised(name), zoo.example_input(name)
    expected = flops(model, x)
    captured = capture(model, (x,))
    operators = operator_macs(captured.gm)
    assert 2 * dense_macs(model, (x,)) == 2 * sum(operator.macs for operator in operators) == expected
    assert len({operator.layer for operator in operators}) == len(operators)
    # The passes change the graph but not the work that counts, and HASTE counts as what it replaces.
    assert (
        2
        * sum(
            operator.macs
            for operator in operator_macs(
                run_passes(captured, HasteConfig(min_reads=0, tolerance=0.4, flat_tolerance=0.2))
            )
        )
        == expected
    )


def test_layers_of_a_small_network() -> None:
    x = torch.randn(2, 3, 8, 8)
    found = {o.layer: (o.kind, o.macs) for o in operator_macs(capture(SmallNet(), (x,)).gm)}
    assert found == {
        "stem": ("conv", 2 * 16 * 3 * 9 * 64),
        "block.1": ("conv", 2 * 16 * 16 * 9 * 64),
        "strided": ("conv", 2 * 24 * 16 * 16),
        "head": ("linear", 2 * 24 * 10),
    }


@pytest.mark.parametrize(
    "config",
    [HasteConfig(enabled=False), HasteConfig(min_reads=0, tolerance=0.4, flat_tolerance=0.2), HasteConfig.paper()],
)
def test_grouped_shared_and_asymmetric_convolutions(config: HasteConfig) -> None:
    model, x = MixedNet().eval(), torch.randn(2, 3, 9, 11)
    expected = flops(model, x)
    captured = capture(model, (x,))
    final = run_passes(captured, config)
    for graph in (captured.gm, final):
        assert 2 * sum(o.macs for o in operator_macs(graph)) == expected
        assert {"stem", "grouped", "depthwise", "shared.0", "shared.0#2", "head"} <= {
            o.layer for o in operator_macs(graph)
        }
    assert 2 * dense_macs(final, (x,)) == 2 * dense_macs(model, (x,)) == expected


def test_transposed_convolutions() -> None:
    model, x = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2), nn.ReLU()).eval(), torch.randn(2, 4, 5, 7)
    captured = capture(model, (x,))
    for graph in (captured.gm, run_passes(captured, HasteConfig())):
        (counted,) = operator_macs(graph)
        assert (counted.layer, counted.kind, counted.macs) == ("0", "conv", 2 * 4 * 5 * 7 * 3 * 9)
    assert dense_macs(model, (x,)) == counted.macs == flops(model, x) // 2


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v) + q @ k.transpose(2, 3) @ v


def test_matrix_products_and_attention() -> None:
    model, x = Attention(), torch.randn(1, 5, 8)
    product = 2 * 5 * 5 * 4
    operators = operator_macs(capture(model, (x,)).gm)
    assert sum(o.macs for o in operators) == 5 * 8 * 24 + 4 * product == dense_macs(model, (x,))
    assert [(o.layer, o.kind) for o in operators] == [("project", "linear"), ("matmul", "matmul")]


class Spelled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.attention.project(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return (q @ k.transpose(2, 3)).softmax(-1) @ v


@pytest.mark.parametrize("config", [HasteConfig(enabled=False), QuantizedConfig(cost_model=False)])
def test_attention_counts_the_same_however_it_is_computed(config: MethodConfig) -> None:
    captured = capture(Spelled().eval(), (torch.randn(3, 5, 8),))
    final = run_passes(captured, config)
    counted = [{o.kind: o.macs for o in operator_macs(graph)} for graph in (captured.gm, final)]
    assert counted[0] == counted[1] == {"linear": 3 * 5 * 8 * 24, "matmul": 3 * 2 * 2 * 5 * 5 * 4}


def test_attention_with_lengths_counts() -> None:
    query, key = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4)
    with operations_counter() as counter:
        attention(query, key, key, None, None, 0.5, False)
    assert macs_counted(counter) == 2 * 2 * 3 * 5 * 7 * 4


def test_counting_leaves_model_and_inputs_alone() -> None:
    model, x = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)), torch.randn(1, 3, 4, 4)
    model.train()
    kept, state = x.clone(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert dense_macs(model, (x,)) == 3 * 4 * 16
    assert torch.equal(x, kept) and model.training and model[1].training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
