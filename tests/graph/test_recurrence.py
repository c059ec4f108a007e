"""Recurrent layers are refused by their name, before anything is lowered."""

import pytest
import torch
from torch import Tensor, nn

import haste_compiler
from haste_compiler import UnsupportedOperatorError


class Recurrent(nn.Module):
    """Columns of an image as a sequence."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.conv, self.encoder = nn.Conv2d(3, 8, 3), layer

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).mean(2).transpose(1, 2)
        return self.encoder(x[:, 0] if isinstance(self.encoder, nn.RNNCellBase) else x)[0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(UnsupportedOperatorError) as caught:
        haste_compiler.compile(Recurrent(kind(8, 8)).eval(), (torch.zeros(1, 3, 9, 9),))
    said = f"recurrent layers aren't supported, and layer 'encoder' is one ({kind.__name__}, operator aten."
    assert str(caught.value).startswith(said)
