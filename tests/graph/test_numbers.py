"""Numbers that a model reads from its own tensors: one that depends on the input must not be taken for fixed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haste_compiler import CaptureError
from haste_compiler.graph.capture import capture
from haste_compiler.graph.numbers import read_numbers


class Rotary(nn.Module):
    """As in models of images: a table as long as the largest position says, made anew for each new one."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[int, Tensor] = {}
        self.positions: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[1] // 4
        if side not in self.positions:
            self.positions[side] = torch.cartesian_prod(torch.arange(4), torch.arange(side))
        positions = self.positions[side].clone()
        length = int(positions.max()) + 1
        if length not in self.tables:
            self.tables[length] = torch.arange(length)[:, None] * torch.arange(1.0, x.shape[-1] + 1)
        return x * F.embedding(positions[:, 0], self.tables[length].cos())


class Reading(nn.Module):
    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : int(self.read(x))]


def test_a_table_as_long_as_positions_say() -> None:
    x = torch.randn(2, 12, 8)
    captured = capture(Rotary(), (x,))
    other = torch.randn(2, 12, 8)
    torch.testing.assert_close(captured.gm(other), Rotary()(other))


def test_a_model_that_ran_before() -> None:
    model, x = Rotary(), torch.randn(2, 20, 8)
    expected = model(x)
    torch.testing.assert_close(capture(model, (x,)).gm(x), expected)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: (x[0, 0] > 0).sum(),
        lambda x: torch.zeros(3, dtype=torch.int64).copy_((x[0, :3] > 0).long()).sum(),
        lambda x: torch.randint(1, 3, ()),
    ],
    ids=["of the input", "of memory that the input was written to", "of chance"],
)
def test_what_is_not_fixed(read: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    assert not read_numbers(Reading(read), (x,)).fixed
    with pytest.raises(CaptureError):
        capture(Reading(read), (x,))


def test_what_is_fixed() -> None:
    numbers = read_numbers(Reading(lambda x: torch.arange(x.shape[1]).max()), (torch.randn(2, 12),))
    assert numbers.values == (11,) and numbers.fixed
