"""What the probe finds, against the operator on the same input."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from haste_compiler.cost.images import dead_leaves
from haste_compiler.cost.probe import probe_inputs, probe_values, values_of
from haste_compiler.graph.capture import capture
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.graph.nodes import is_call
from haste_compiler.methods.haste.config import HasteConfig
from haste_compiler.methods.haste.found import borders
from haste_compiler.methods.haste.probe import probe
from haste_compiler.methods.haste.reference.convolution import haste_conv2d
from haste_compiler.methods.haste.reference.grouping import filter_norms
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.settings import Settings


def geometry(side: int, patch: int, groups: int = 1) -> ConvGeometry:
    return ConvGeometry(16, 8, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), groups, (side, side), (patch, patch))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("config", [HasteConfig(num_hyperplanes=4, tolerance=0.5), HasteConfig.paper()])
def test_all_patches_of_a_small_layer_are_counted_as_the_operator_counts(config: HasteConfig, groups: int) -> None:
    x, weight = torch.randn(2, 16, 14, 14), torch.randn(8, 16 // groups, 3, 3)
    x[:, 3], x[:, 5], x[:, 9] = x[:, 2], 1.0, 0.0
    shape = geometry(14, 5, groups)
    found = probe(x, shape, filter_norms(weight, groups), config, "layer")
    planes = draw_hyperplanes(shape.window_pixels, config.seed, "layer", config.nonzeros)
    settings = Settings.of(config)
    result = haste_conv2d(x, weight, None, planes, settings, shape, merge=config.merge, skip=config.skip)
    expected = result.counts
    np.testing.assert_array_equal(found.counts, expected.flatten(0, 3).numpy())
    np.testing.assert_array_equal(found.on_border, np.tile(np.repeat(borders(shape), groups), 2))
    assert 0 < found.kept < 1


def test_large_layers_are_sampled_all_over() -> None:
    shape = geometry(160, 4)
    x = torch.randn(1, 16, 160, 160)
    x[:, 8:, 80:] = 0
    found = probe(x, shape, torch.ones(16), HasteConfig(), "layer")
    assert len(found.counts) == 64 and found.kept == pytest.approx(0.75, abs=0.06)
    assert 0 < found.on_border.mean() < 0.3


def test_images_take_the_place_of_images_only() -> None:
    small, tokens, image = torch.randn(1, 3, 4, 4), torch.arange(4), torch.randn(2, 3, 9, 9)
    inputs = probe_inputs([small, tokens, image, 7], dead_leaves, 0)
    assert inputs[0] is small and inputs[1] is tokens and inputs[3] == 7
    assert inputs[2].shape == image.shape and not torch.equal(inputs[2], image)


class Net(nn.Module):
    """Two convolutions, with the batch's size in the way or not."""

    def __init__(self, baked: bool) -> None:
        super().__init__()
        self.first, self.second, self.baked = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), baked

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(y.reshape(4, 8, -1).reshape(4, 8, 10, 10) if self.baked else y)


@pytest.mark.parametrize("baked", [False, True])
def test_one_image_of_a_batch_is_enough_where_the_graph_takes_it(baked: bool) -> None:
    net, examples = Net(baked), [torch.randn(4, 3, 12, 12)]
    gm = capture(net, examples).gm
    source = [n for n in gm.graph.nodes if is_call(n, torch.ops.aten.conv2d.default)][1].all_input_nodes[0]
    (value,) = probe_values(gm, [source], examples, dead_leaves, 0)
    drawn = dead_leaves((4 if baked else 1, 3, 12, 12), 0)
    torch.testing.assert_close(value, net.first(drawn))
    (whole,) = values_of(gm, [source], examples)
    torch.testing.assert_close(whole, net.first(examples[0]))
