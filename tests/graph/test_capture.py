from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from haste_compiler.errors import CaptureError
from haste_compiler.graph.capture import capture
from haste_compiler.graph.functionalize import drop_dropouts, is_simply_functional
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.pipeline import run_passes
from tests.passes.checking import Fn, assert_same, calls, check_passes, nodes, settled


def image(channels: int = 3, side: int = 8, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, side, side)


def test_training_model_is_captured_in_evaluation_mode_and_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 4, 1))
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = image()
    captured = capture(model, (x,))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert_same(captured.gm(x), model.eval()(x), 0)


def test_graph_shares_no_tensor_with_the_model() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(6, 2)).eval(), image()
    captured = capture(model, (x,))
    expected = model(x)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert_same(captured.gm(x), expected, 0)


def test_layer_names() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.fc = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x))

    block = Block()
    model = Fn(
        lambda self, x: F.conv2d(self.stack(self.block(x)), self.weight),
        block=block,
        stack=nn.Sequential(block, nn.Sequential(block)),
        weight=nn.Parameter(torch.randn(2, 3, 1, 1)),
    )
    gm = capture(model, (image(),)).gm
    names = [node.meta["layer"] for node in nodes(gm, "aten.conv2d")]
    assert names == ["block.conv", "block.conv#2", "block.conv#3", nodes(gm, "aten.conv2d")[-1].name]
    assert [node.meta["layer"] for node in nodes(gm, "aten.linear")] == ["block.fc", "block.fc#2", "block.fc#3"]


@pytest.mark.parametrize(
    ("model", "shape", "name"),
    [
        (nn.Conv2d(8, 6, 3), (1, 8, 9, 9), "conv2d"),
        (nn.Conv1d(8, 6, 3), (1, 8, 9), "conv1d"),
        (nn.ConvTranspose2d(8, 6, 3), (1, 8, 9, 9), "conv_transpose2d"),
        (nn.Linear(8, 6), (1, 8), "linear"),
        (
            Fn(lambda self, x: F.conv2d(x, self.weight), weight=nn.Parameter(torch.ones(6, 8, 3, 3))),
            (1, 8, 9, 9),
            "conv2d",
        ),
    ],
)
def test_a_model_that_is_itself_the_layer_has_one_name(model: nn.Module, shape: tuple[int, ...], name: str) -> None:
    captured = capture(model.eval(), (torch.ones(shape),))
    after = run_passes(captured, HasteConfig(cost_model=False, min_reads=0))
    for gm in (captured.gm, after):
        assert {node.meta["layer"] for node in gm.graph.nodes if node.meta.get("layer")} == {name}


def test_layer_names_are_the_same_by_either_way_of_export() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)])
            self.table = nn.ModuleDict({"a b": nn.Conv2d(3, 3, 1)})

        def forward(self, x: Tensor) -> Tensor:
            return self.table["a b"](self.convs[1](self.convs[0](x)))

    model = nn.Sequential(Block(), nn.Conv2d(3, 4, 1))
    expected = ["0.convs.0", "0.convs.1", "0.table.a b", "1"]
    for strict in (False, True):
        gm = capture(model, (image(),), strict=strict).gm
        assert [node.meta["layer"] for node in nodes(gm, "aten.conv2d")] == expected


@dataclass
class Result:
    logits: Tensor
    features: Tensor


pytree.register_dataclass(Result)


@pytest.mark.parametrize(
    "build",
    [
        lambda a, b: a,
        lambda a, b: (a,),
        lambda a, b: [a, b],
        lambda a, b: {"b": b, "a": (a, [b], None, 3)},
        lambda a, b: Result(a, b),
        lambda a, b: (a, a),
    ],
)
def test_output_structures(build: object) -> None:
    model = Fn(lambda self, x, y: build(self.c(x), y * 2), c=nn.Conv2d(3, 4, 3))  # type: ignore[operator]
    check_passes(model, image(), torch.randn(5))


def test_input_that_is_an_output() -> None:
    check_passes(Fn(lambda self, x: (x, x.contiguous(), F.dropout(x, training=False))), image())


@pytest.mark.parametrize(
    ("function", "simple"),
    [
        (lambda self, x: self.c(x).relu_(), True),
        (lambda self, x: (y := self.c(x), y.relu_(), y + 1)[-1], True),
        (lambda self, x: (y := self.c(x), y.add_(1), y.mul_(2), F.relu(y, inplace=True), y)[-1], True),
        (lambda self, x: (y := self.c(x), z := y * 3, y.sigmoid_(), y + z)[-1], True),
        # Through views and their bases.
        (lambda self, x: (y := self.c(x), y.chunk(2, 1)[0].relu_(), y)[-1], False),
        (lambda self, x: (y := self.c(x), z := y.flatten(1), y.relu_(), z)[-1], False),
        (lambda self, x: (y := self.c(x), y[:, 1].fill_(3), y.tanh())[-1], False),
        (lambda self, x: (y := self.c(x), z := F.dropout(y, training=False), z.relu_(), y)[-1], True),
        (lambda self, x: (y := self.c(x), z := F.dropout(y, training=False), z[:, 1].relu_(), y + 1)[-1], False),
    ],
)
def test_in_place_operators(function: object, simple: bool) -> None:
    model = Fn(function, c=nn.Conv2d(3, 4, 3, padding=1))
    program = torch.export.export(model.eval(), (image(),))
    drop_dropouts(program.graph_module.graph)
    assert is_simply_functional(program.module(check_guards=False)) == simple
    assert not [name for name in calls(check_passes(model, image())) if name.endswith("_")]


def test_input_is_not_changed() -> None:
    model, x = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 1)).eval(), image()
    expected, kept = model(x.clone()), x.clone()
    captured = capture(model, (x,))
    assert_same(captured.gm(x), expected, 0)
    assert torch.equal(x, kept)


class _DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class _Counting(nn.Module):
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x * self.count


@pytest.mark.parametrize(
    ("model", "inputs", "said"),
    [
        (_DataDependent(), (image(),), "_DataDependent: its control flow .* depend .*test_capture.py, line"),
        (_Counting(), (image(),), "_Counting writes to its own tensor 'count'"),
        (nn.Conv2d(3, 4, 3), image(), "inputs of Conv2d must be a tuple"),
        (torch.relu, (image(),), "takes a torch.nn.Module"),
    ],
)
def test_what_cannot_be_captured(
    model: nn.Module, inputs: tuple[Tensor, ...], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CaptureError, match=said) as caught:
        capture(model, inputs)
    assert "\n" not in str(caught.value)
    assert not any(capfd.readouterr())
    assert not isinstance(model, nn.Module) or model.training


def test_captured_can_be_used_again() -> None:
    model = settled(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)))
    x = image()
    captured = capture(model, (x,))
    before = str(captured.gm.graph)
    merged = run_passes(captured, HasteConfig.exact())
    dense = run_passes(captured, HasteConfig(enabled=False))
    assert str(captured.gm.graph) == before
    assert calls(merged)["haste.convolve"] == 1 and calls(dense)["haste.convolve"] == 0
    assert_same(merged(x), model(x), 1e-4)
    assert_same(dense(x), model(x))


def test_ones_own_custom_operators_are_left_in_the_graph() -> None:
    gm = check_passes(
        Fn(
            lambda self, x: torch.ops.haste.conv2d(x, self.w, None, None, [1, 1], [0] * 4, [1, 1], 1, "relu"),
            w=nn.Parameter(torch.randn(4, 3, 1, 1)),
        ),
        image(),
    )
    assert calls(gm)["haste.conv2d"] == 1
