"""Models at the border of what capture takes."""

from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from haste_compiler.errors import CaptureError, InputError
from haste_compiler.graph.capture import capture
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.pipeline import run_passes
from tests.passes.checking import Fn, assert_same, calls, check_passes


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1)


@dataclass
class Heads:
    logits: Tensor
    features: list[Tensor]


@dataclass
class Detections:
    heads: Heads
    extra: dict[str, Any]


def test_unregistered_dataclasses_are_returned_as_themselves() -> None:
    model = Fn(lambda self, x: Detections(Heads(self.c(x), [x + 1]), {"heads": Heads(x, [])}), c=conv())
    hooks = len(model._forward_hooks)
    gm = check_passes(model, image())
    result = gm(image())
    assert isinstance(result, Detections) and isinstance(result.extra["heads"], Heads)
    assert len(model._forward_hooks) == hooks


def test_hook_is_removed_when_the_export_fails() -> None:
    model = nn.Conv2d(4, 4, 3)
    with pytest.raises(InputError, match=r"takes \(N, 4, H, W\)"):
        capture(model, (image(),))
    assert not model._forward_hooks


@pytest.mark.parametrize(
    "function",
    [lambda self, x: self.c(x)[x > 0], lambda self, x: x.nonzero() + 1, lambda self, x: x * x.sum().item()],
)
def test_sizes_that_depend_on_values(function: object) -> None:
    with pytest.raises(CaptureError, match=r"Fn .*depend on the values in a tensor") as caught:
        capture(Fn(function, c=conv()), (image(),))
    assert "\n" not in str(caught.value)


def test_constants_made_of_nothing_are_computed() -> None:
    model = Fn(lambda self, x: self.c(x) * torch.arange(3.0).view(3, 1, 1) + torch.ones(3, 1, 1), c=conv())
    assert calls(check_passes(model, image())) == {"haste.conv2d": 1}


def test_dropout_that_is_an_output_is_the_tensor_itself() -> None:
    def forward(self: Fn, x: Tensor) -> tuple[Tensor, Tensor]:
        y = cast(nn.Conv2d, self.c)(x)
        dropped = F.dropout(y, training=False)
        y.relu_()
        return dropped, y

    model, x = Fn(forward, c=conv()).eval(), image()
    dropped, y = capture(model, (x,)).gm(x)
    assert_same(dropped, y, 0)
    check_passes(model, x)


def test_shapes_are_plain_numbers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()).eval()
    captured = capture(model, (image(),))
    for gm in (captured.gm, run_passes(captured, HasteConfig(min_channels=2))):
        values = [node.meta["val"] for node in gm.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
        assert values and all(type(size) is int for value in values for size in value.shape)
