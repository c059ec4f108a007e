"""The test networks themselves: that they load, give finite outputs, and are the same every time."""

import pytest
import torch

from tests import zoo


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x1_0"])
def test_random_networks_are_repeatable_and_finite(name: str) -> None:
    first, second = zoo.zoo(name, size=64), zoo.zoo(name, size=64)
    x = zoo.example_input(name, batch=2, size=64)
    y = first(x)
    assert y.shape == (2, 1000) and y.isfinite().all()
    assert 1e-4 < float(y.std()) < 1e3
    assert torch.equal(y, second(x))
    assert not first.training


def test_building_a_network_leaves_the_random_state_alone() -> None:
    if zoo.missing_torchvision():
        pytest.skip(zoo.missing_torchvision())
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    zoo.build("squeezenet1_1", size=64)
    assert torch.equal(torch.rand(1), expected)


def test_trained_network_recognises_its_images() -> None:
    network = zoo.trained("resnet18")
    x, labels = zoo.cifar_images("resnet18", 100)
    assert len(labels.unique()) == 10
    assert float((network(x).argmax(1) == labels).float().mean()) > 0.75


def test_photographs_have_the_documented_shape() -> None:
    assert zoo.photographs(2).shape == (2, 3, 224, 224)
