"""The networks that can be trained, and what is said where one can't be had."""

import sys

import pytest
import torch

from haste_compiler.errors import ConfigError, HasteError
from haste_compiler.prom.networks import NETWORKS
from tests import zoo


def test_digits_net_takes_any_channels_and_classes() -> None:
    assert NETWORKS["digits"](3, 7, 0.5)(torch.randn(2, 3, 20, 20)).shape == (2, 7)


def test_mobilenet_keeps_the_size_of_small_images() -> None:
    if missing := zoo.missing_torchvision():
        pytest.skip(missing)
    network = NETWORKS["mobilenet_v2"](3, 10, 0.35)
    sizes: list[torch.Size] = []
    network.get_submodule("features.0").register_forward_hook(lambda module, inputs, y: sizes.append(y.shape[2:]))
    assert network(torch.randn(2, 3, 24, 24)).shape == (2, 10) and sizes == [(24, 24)]
    with pytest.raises(ConfigError, match="images of 3 channels, not 1"):
        NETWORKS["mobilenet_v2"](1, 10, 0.35)


def test_a_missing_torchvision_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(HasteError, match="mobilenet_v2 needs torchvision"):
        NETWORKS["mobilenet_v2"](3, 10, 1.0)
