"""What layers' changes do to outputs and scores, against running the network with them."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from haste_compiler.graph.capture import capture
from haste_compiler.graph.nodes import is_call
from haste_compiler.methods.traced import Traced
from haste_compiler.ops.conv2d import CONV2D
from haste_compiler.passes.pipeline import rewrite
from haste_compiler.search.effects import Effects, contracted
from haste_compiler.search.images import Images, read_rows
from haste_compiler.search.quality import log_scores
from haste_compiler.search.sensitivity import distances


class Scores(nn.Module):
    """Two convolutions, class scores or probabilities, and another output that has no row for each image."""

    def __init__(self, probabilities: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3)
        self.head, self.probabilities = nn.Linear(12, 7), probabilities

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        scores = self.head(x.mean(dim=(2, 3)))
        return x.square().mean()[None].expand(1), scores.softmax(dim=1) if self.probabilities else scores


def images_of(model: nn.Module, count: int) -> Images:
    x = torch.randn(count, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    return read_rows(x, None).answered(model, 3)


def moved(node: fx.Node, change: Tensor, exact: Tensor | None, values: Mapping[fx.Node, Any]) -> Tensor:
    """A layer's value with a change: what it is known to be, or what it computes from its changed input."""
    if exact is not None:
        return exact + change
    computed: Tensor = CONV2D(*map_arg(node.args, lambda read: values[read]))
    return computed + change


@pytest.mark.parametrize("probabilities", [False, True])
def test_small_changes_do_what_is_predicted(probabilities: bool) -> None:
    """Signs of shifts included; changes of two layers add up. The last part has a repeated image."""
    torch.manual_seed(0)
    model = Scores(probabilities).eval()
    images = images_of(model, 17)
    effects = Effects(images, True)
    found, true = [], []
    for number, call in enumerate(images.calls):
        gm = rewrite(capture(model, call))
        nodes = [node for node in gm.graph.nodes if is_call(node, CONV2D)]
        run = Traced(gm, nodes, list(call))
        rows = [min(row, images.count - 1) for row in range(3 * number, 3 * number + 3)]
        names = ["first", "second"]
        exact = {name: run.values[node] for name, node in zip(names, nodes, strict=True)}
        gradients = dict(zip(names, effects.gradients(run, rows), strict=True))
        changes = {name: 1e-4 * torch.randn_like(value) for name, value in exact.items()}
        kept = min(3, images.count - 3 * number)
        found.append(contracted(gradients, changes)[:kept])
        computes = {
            node: partial(moved, node, changes[name], exact[name] if name == "first" else None)
            for name, node in zip(names, nodes, strict=True)
        }
        true.append(run.run_with(computes)[1][:kept].double())
    joined, outputs = torch.cat(found), torch.cat(true)
    original = images.outputs[0]
    error = float((outputs - original).norm() / original.norm())
    # 17 images of 7 scores: as many directions as scores, which is exact.
    assert float(effects.change(joined).norm()) == pytest.approx(error, rel=0.02)
    classes, before = distances(images)
    scores = log_scores(outputs).gather(1, classes)
    torch.testing.assert_close(
        effects.shift(joined), scores[:, :1] - scores[:, 1:] - before, rtol=0.05, atol=0.02 * 1e-4
    )


def test_without_shifts_only_random_directions_are_looked_at() -> None:
    images = images_of(Scores(False).eval(), 17)
    effects = Effects(images, False)
    found = torch.ones(17, effects.count)
    assert effects.shift(found).shape == (17, 0) and effects.change(found).shape == (17 * 7,)
