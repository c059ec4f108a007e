"""What a user reads who gives a model, or inputs, that don't fit: one sentence about what was given."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from haste_compiler.errors import CaptureError, InputError
from haste_compiler.graph.capture import capture


class Net(nn.Module):
    """A convolution, a norm and a classifier of images of 8×8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(128, 5)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.norm(self.conv(x))).flatten(1))


IMAGE = torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ((torch.zeros(1, 1, 8, 8),), "input 0 has shape (1, 1, 8, 8): layer 'conv' takes (N, 3, H, W)"),
        ((torch.zeros(8, 8, 3),), "input 0 has shape (8, 8, 3): layer 'conv' takes (N, 3, H, W)"),
        ((torch.zeros(3, 8, 8),), "inputs of shape (3, 8, 8) don't fit Net: layer 'norm' takes (N, 8, H, W)"),
        ((torch.zeros(1, 3, 9, 10),), "Net: layer 'head' takes (…, 128), but is given (1, 160)"),
        ((torch.zeros(1, 3, 1, 8),), "Net: layer 'pool', given (1, 8, 1, 8): "),
        ((IMAGE.to(torch.uint8),), "layer 'conv' has weights of torch.float32, but is given torch.uint8"),
        (([IMAGE],), "layer 'conv' takes a tensor, but is given list"),
        ((IMAGE, IMAGE), "Net can't be called with 2 inputs: too many positional arguments"),
        ((), "Net can't be called with 0 inputs: missing a required argument: 'x'"),
    ],
)
def test_inputs(inputs: tuple[Any, ...], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    model = Net()
    with pytest.raises(InputError) as caught:
        capture(model, inputs)
    assert not any(capfd.readouterr())
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_which_of_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(1, 4, 1)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.left(left) + self.right(right)

    with pytest.raises(InputError, match=r"input 1 has shape \(1, 2, 8, 8\): layer 'right' takes \(N, 1, H, W\)"):
        capture(Two(), (IMAGE, torch.zeros(1, 2, 8, 8)))


def test_half_precision() -> None:
    with pytest.raises(InputError, match=r"layer 'conv' has weights of torch.float16, but is given torch.float32"):
        capture(Net().half(), (IMAGE,))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Net().to("meta"), "'conv.weight' of Net is on the device meta"),
        (nn.LazyConv2d(8, 3), "'weight' of LazyConv2d has no values yet"),
    ],
    ids=["meta", "lazy"],
)
def test_models_that_nothing_can_be_made_of(model: nn.Module, said: str) -> None:
    with pytest.raises(InputError) as caught:
        capture(model, (IMAGE,))
    assert said in str(caught.value)


# PyTorch says that it deprecates what these are.
@pytest.mark.filterwarnings("ignore:`torch.jit.(trace|trace_method)` is deprecated:DeprecationWarning")
def test_traced() -> None:
    model = torch.jit.trace(Net().eval(), IMAGE)
    with pytest.raises(InputError, match=r"is a TopLevelTracedModule of torch.jit: allowed is the torch.nn.Module"):
        capture(model, (IMAGE,))


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning")
def test_quantised() -> None:
    model = Net()
    model.head = torch.ao.nn.quantized.dynamic.Linear(128, 5)  # type: ignore[assignment]
    with pytest.raises(InputError, match="layer 'head' of Net is quantised"):
        capture(model, (IMAGE,))


def test_a_fault_of_the_model_itself() -> None:
    class Broken(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1 // (x.dim() - 4))

    with pytest.raises(CaptureError, match="ZeroDivisionError: integer"):
        capture(Broken(), (IMAGE,))
