"""Which layers become one kernel with a depthwise convolution, and that a network is told of them as before."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import haste_compiler
from haste_compiler.codegen.program import layers_of
from haste_compiler.runtime.compiled import CompiledModule
from haste_compiler.testing import check_layers

SIDE = 64
"""Of images whose expanded channels leave the second-level cache of any machine."""


class Block(nn.Module):
    """An inverted residual; ``between`` comes before its last convolution, ``also`` is added to its result."""

    def __init__(
        self,
        between: Callable[[Tensor], Tensor] = lambda y: y,
        also: Callable[[Tensor, Tensor], Tensor | float] = lambda expanded, y: 0.0,
        channels: int = 96,
    ) -> None:
        super().__init__()
        self.expand = nn.Conv2d(8, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.project = nn.Conv2d(channels, 8, 1)
        self.between, self.also = between, also

    def forward(self, x: Tensor) -> Tensor:
        expanded = F.relu6(self.expand(x))
        y = F.relu6(self.depthwise(expanded))
        return x + self.project(self.between(y)) + self.also(expanded, y)


def together(compiled: CompiledModule) -> list[list[str]]:
    """The layers that share a kernel."""
    kernels = [layers_of(layer) for _, layer in compiled._parts()[0].executable.kernels]
    return [layers for layers in kernels if len(layers) > 1]


def images(batch: int = 1) -> Tensor:
    return torch.randn(batch, 8, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


ALL = ["expand", "depthwise", "project"]


@pytest.mark.parametrize("precision", [None, "int8"])
def test_an_inverted_residual_is_one_kernel(precision: str | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Block().eval(), images()
    compiled = haste_compiler.compile(model, (x,), precision=precision)
    assert together(compiled) == [ALL]
    assert {*ALL} <= compiled.profile(x).keys()
    checks = check_layers(model, compiled, (x,))
    # What is between the layers is in no tensor: the last one's result stands for all of them.
    assert [check.name for check in checks] == ["project"] and not any(check.wrong for check in checks)
    compiled.save(tmp_path / "block.haste")
    loaded = haste_compiler.load(tmp_path / "block.haste")
    assert torch.equal(loaded(x), compiled(x)) and {*ALL} <= loaded.profile(x).keys()


def test_any_batch() -> None:
    model = Block().eval()
    compiled = haste_compiler.compile(model, (images(2),), dynamic=True)
    assert together(compiled) == [ALL]
    for batch in (1, 3):
        torch.testing.assert_close(compiled(images(batch)), model(images(batch)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        # Squeeze and excitation reads the whole plane first.
        (Block(between=lambda y: y * y.mean((2, 3), keepdim=True).sigmoid()), []),
        (Block(also=lambda _, y: y.mean()), []),
        (Block(also=lambda expanded, _: expanded.mean()), [["depthwise", "project"]]),
        # Everything stays in the caches as it is.
        (Block(channels=4), []),
    ],
    ids=["squeeze-excitation", "another reads the depthwise one", "another reads the first", "small"],
)
def test_what_stays_apart(model: Block, wanted: list[list[str]]) -> None:
    compiled, x = haste_compiler.compile(model.eval(), (images(),)), images()
    assert together(compiled) == wanted
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
