"""The tiles of each frame are as many as the stream's code counted."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.report.stream_maps import StreamMaps
from tests.streams.test_stream import SIZE, frames


class Camera(nn.Module):
    """Convolutions at two sizes, and a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.strided = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.grown = nn.ConvTranspose2d(16, 16, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.grown(F.relu(self.strided(F.relu(self.stem(x)))))


@pytest.mark.parametrize("refresh", [None, 3])
def test_tiles_are_those_that_were_counted(refresh: int | None) -> None:
    torch.manual_seed(0)
    model = Camera().eval()
    compiled = haste_compiler.compile(model, threads=1, config=HasteConfig(enabled=False))
    stream = compiled.stream(0.1, refresh)
    maps = StreamMaps(model, stream)
    partly = 0
    for frame in frames(4, batch=1, noise=0.01):
        stream(frame)
        found, layers = maps(frame), stream.stats().layers
        assert set(found) == set(layers)
        for name, each in found.items():
            assert (each.share.sum(), each.share.size) == (layers[name].last, layers[name].tiles)
            assert each.over(SIZE).shape == SIZE
        partly += sum(0 < each.mean < 1 for each in found.values())
    assert partly
