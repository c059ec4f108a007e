"""Operators beside plain convolutions of which a stream computes a part: each to its definition, none as a whole."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import haste_compiler
from haste_compiler import CompiledModule, HasteConfig
from haste_compiler.graph.capture import capture
from haste_compiler.passes.pipeline import rewrite
from haste_compiler.streams.reference import ReferenceStream, tile_sides
from tests.streams.test_stream import error, frames


class Network(nn.Module):
    """Operators that follow a convolution, and a convolution that follows them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 4, 3, padding=1)
        self.slopes, self.shift = nn.PReLU(12), nn.Parameter(torch.randn(12, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.middle(self.stem(x)))
        return y

    def middle(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Pointwise(Network):
    def middle(self, x: Tensor) -> Tensor:
        y = self.slopes(x)
        return torch.sigmoid(2 - (y * y + self.shift)) / (1.5 + torch.sigmoid(x))


class Factors(Network):
    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(12, 12, 1)

    def middle(self, x: Tensor) -> Tensor:
        return x + x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))


class Depthwise(Network):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(12, 12, k, s, k // 2, groups=12) for k, s in ((3, 1), (5, 2)))

    def middle(self, x: Tensor) -> Tensor:
        return F.relu(self.two(self.one(x)))


class Resizing(Network):
    def middle(self, x: Tensor) -> Tensor:
        y = F.interpolate(x, scale_factor=2, mode="nearest")
        y = F.interpolate(y, size=(41, 38), mode="bilinear", align_corners=False)
        return F.pad(F.pad(y, (1, 2, 0, 1), "reflect"), (0, 1, 2, 0), value=0.25)


class Joins(Network):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(24, 12, 1)

    def middle(self, x: Tensor) -> Tensor:
        y: Tensor = self.again(torch.cat([x, F.avg_pool2d(x, 3, 1, 1)], 1))
        return F.adaptive_avg_pool2d(y, (11, 9))


class Transposed(Network):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(12, 12, (2, 3), (2, 3))

    def middle(self, x: Tensor) -> Tensor:
        return torch.tanh(self.up(x))


NETWORKS = (Pointwise, Factors, Depthwise, Resizing, Joins, Transposed)


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda network: network.__name__)
def compiled(request: pytest.FixtureRequest) -> CompiledModule:
    torch.manual_seed(0)
    return haste_compiler.compile(request.param().eval(), threads=1, config=HasteConfig(enabled=False))


def test_without_tolerance_it_is_the_network(compiled: CompiledModule) -> None:
    stream = compiled.stream(tolerance=0)
    video = frames(3)
    for frame in video:
        # A product and a sum that TVM joins in one kernel are rounded once there.
        assert error(stream(frame), compiled(frame)) < 1e-6
    works = [layer.last / layer.tiles for layer in stream.stats().layers.values()]
    assert min(works) > 0 and works[0] < 1


def test_definition_and_nothing_as_a_whole(compiled: CompiledModule) -> None:
    tolerance, video = 0.1, frames(3, noise=0.02)
    stream = compiled.stream(tolerance=tolerance)
    stream(video[0])
    sides = {name: layer.side for name, layer in stream.stats().layers.items()}
    model = compiled._model
    reference = ReferenceStream(rewrite(capture(model, (video[0],))), tile_sides(sides), tolerance, tolerance / 2)
    with torch.inference_mode():
        reference.run(video[0])
        for frame in video[1:]:
            assert error(stream(frame), reference.run(frame)) < 1e-5
            assert [layer.last for layer in stream.stats().layers.values()] == [
                int(tiles.sum()) for tiles in reference.listed.values()
            ]
    assert stream._code is not None
    entered = [symbol for symbol, _ in stream._code.executable.kernels if symbol.startswith("enter")]
    # The frame, and the factors, which are means of all pixels.
    assert len(entered) == (2 if isinstance(model, Factors) else 1)
    assert 0 < stream.stats().work < 1
