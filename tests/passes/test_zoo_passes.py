"""Every pass on whole networks, and what is left in their graphs."""

from functools import lru_cache

import pytest
from torch import fx, nn

from haste_compiler.graph.capture import capture
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.pipeline import run_passes
from tests.passes.checking import calls, check_passes, nodes
from tests.zoo import (
    cifar_images,
    example_input,
    import_torchvision,
    missing_torchvision,
    set_batch_norm_statistics,
    trained,
    zoo,
)

CHECKED = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x1_0", "densenet", "convnext_tiny", "googlenet"]


def densenet() -> nn.Module:
    """Two blocks of three layers: the 58 layers of a DenseNet-121 are like these."""
    if reason := missing_torchvision():
        pytest.skip(reason)
    model: nn.Module = import_torchvision().models.DenseNet(8, (3, 3), 16)
    set_batch_norm_statistics(model, example_input("densenet121", batch=2, size=64))
    return model


@lru_cache(maxsize=len(CHECKED))
def checked(name: str) -> fx.GraphModule:
    """The network's final graph, after each pass was checked."""
    size = 64
    model = densenet() if name == "densenet" else zoo(name, size)
    for parameter_name, parameter in model.named_parameters():
        # At its first value, 1e-6, ConvNeXt's layer scale hides whatever its blocks compute.
        if parameter_name.endswith("layer_scale"):
            parameter.data.uniform_(0.5, 1.5)
    return check_passes(model, example_input("resnet18", size=size), tolerance=1e-4)


@pytest.mark.parametrize("name", CHECKED)
def test_every_pass_keeps_the_networks_result(name: str) -> None:
    gm = checked(name)
    assert "aten.batch_norm" not in calls(gm) and "aten.conv2d" not in calls(gm) and "aten.linear" not in calls(gm)


def test_resnet_is_convolutions_pooling_and_a_linear_layer() -> None:
    gm = checked("resnet18")
    assert dict(calls(gm)) == {
        "haste.conv2d": 20,
        "aten.max_pool2d": 1,
        "aten.adaptive_avg_pool2d": 1,
        "aten.flatten": 1,
        "haste.linear": 1,
    }
    # Two additions of every stage, and the activation of every convolution but of the three that shorten the residual.
    assert sum(node.args[3] is not None for node in nodes(gm, "haste.conv2d")) == 8
    assert sum(node.args[-1] == "relu" for node in nodes(gm, "haste.conv2d")) == 17


def test_shuffles_and_splits() -> None:
    gm = checked("shufflenet_v2_x1_0")
    # Thirteen blocks begin with a split, each half of which is shuffled for itself; three shuffles are kept whole.
    assert calls(gm)["haste.channel_shuffle"] == 29
    assert not {"aten.slice", "aten.cat", "getitem", "aten.reshape"} & set(calls(gm))


def test_inception_blocks_share_their_hash() -> None:
    gm = run_passes(capture(zoo("googlenet", 64), (example_input("googlenet", size=64),)), HasteConfig(min_reads=0))
    # Of the four branches of each of nine blocks three begin with a 1x1 convolution of the same tensor.
    assert calls(gm)["haste.convolve"] - calls(gm)["haste.hash"] == 18


def test_trained_network() -> None:
    images, _ = cifar_images("resnet18", 2)
    check_passes(trained("resnet18"), images)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_large", "densenet121"])
def test_every_pass_keeps_a_large_networks_result(name: str) -> None:
    checked(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x1_0", "googlenet"])
def test_exact_configuration_keeps_the_networks_result(name: str) -> None:
    check_passes(zoo(name, 64), example_input(name, size=64), config=HasteConfig.exact(), tolerance=1e-3)
