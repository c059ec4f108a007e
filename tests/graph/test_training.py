"""Models that were left in training mode."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from haste_compiler.graph.training import warn_of_training


class Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, self.training)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.Dropout(), nn.RReLU(), nn.InstanceNorm2d(3), Own()])
def test_where_evaluation_mode_computes_something_else_there_is_a_warning(layer: nn.Module) -> None:
    with pytest.warns(UserWarning, match=r"Sequential is in training mode \(1\): it is compiled as .* evaluation mode"):
        warn_of_training(nn.Sequential(nn.Conv2d(3, 3, 1), layer).train())


def test_otherwise_there_is_none() -> None:
    exported = torch.export.export(nn.Sequential(nn.ReLU()).eval(), (torch.ones(2),)).module()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_training(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()).train())
        warn_of_training(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval())
        warn_of_training(exported)
