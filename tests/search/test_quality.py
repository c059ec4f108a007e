"""What is said of outputs, and when that keeps a budget."""

import math

import pytest
import torch
from torch import Tensor, nn

from haste_compiler.errors import InputError
from haste_compiler.search.budget import Budget, one_budget
from haste_compiler.search.images import Images, read_images
from haste_compiler.search.quality import Judge, calibrated_temperature


def images_of(scores: Tensor, labels: Tensor | None = None) -> Images:
    return Images([], len(scores), len(scores), [scores], labels)


def scores(seed: int, count: int = 400) -> Tensor:
    return 3 * torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_nothing_changed() -> None:
    quality = Judge(images_of(scores(0)), 0.9, 1.0).judge([scores(0)])
    assert (quality.output_error, quality.agreement, quality.expected_drop) == (0, 1, 0)
    assert all(quality.keeps(Budget(kind, 0.01)) for kind in ("max_accuracy_drop", "max_output_error"))
    # Of 400 images none changed, yet nobody can say that of a thousand none would.
    assert not quality.keeps(Budget("min_agreement", 0.999))
    assert quality.keeps(Budget("min_agreement", 0.99))


def test_the_expected_drop_is_right_where_the_probabilities_are() -> None:
    """Labels drawn from the original's own probabilities: the drop on them is the expected one, within its noise."""
    original = scores(0, 20000)
    labels = torch.multinomial(original.softmax(dim=1), 1, generator=torch.Generator().manual_seed(1)).squeeze(1)
    found = original + 0.5 * scores(2, 20000)
    expected = Judge(images_of(original), 0.9, 1.0).judge([found]).expected_drop
    seen = Judge(images_of(original, labels), 0.9, 1.0).judge([found]).accuracy_drop
    assert expected is not None and expected > 0.02
    assert seen == pytest.approx(expected, abs=0.012)


def test_labels_calibrate_probabilities_that_are_too_sure() -> None:
    original = scores(0, 5000)
    labels = torch.multinomial(original.softmax(dim=1), 1, generator=torch.Generator().manual_seed(1)).squeeze(1)
    assert calibrated_temperature(images_of(original, labels)) == pytest.approx(1, rel=0.08)
    assert calibrated_temperature(images_of(2 * original, labels)) == pytest.approx(2, rel=0.08)
    assert calibrated_temperature(images_of(original)) == 1


def test_probabilities_are_not_made_probabilities_twice() -> None:
    original = scores(0)
    found = original + scores(1)
    judged = [Judge(images_of(o), 0.9, 1.0).judge([f]) for o, f in ((original, found), (original.softmax(1), found))]
    assert judged[0].expected_drop == pytest.approx(judged[1].expected_drop)


def test_what_is_not_finite_keeps_no_budget() -> None:
    broken = scores(0)
    broken[:100] = math.nan
    quality = Judge(images_of(scores(0)), 0.9, 1.0).judge([broken])
    assert quality.agreement == 0.75
    for kind, limit in (("max_accuracy_drop", 0.1), ("max_output_error", 0.9), ("min_agreement", 0.8)):
        assert not quality.keeps(Budget(kind, limit))


def test_calls_cover_all_images_once() -> None:
    x = torch.arange(10.0).view(10, 1, 1, 1)
    read = read_images(nn.Flatten(), [x[:7], x[7:]], None, 4)
    assert [len(call[0]) for call in read.calls] == [4, 4, 4]
    assert torch.equal(read.outputs[0], x.view(10, 1).double())
    assert read.part(2, 3).outputs[0].flatten().tolist() == [8, 9]
    with pytest.raises(InputError, match="different shapes"):
        read_images(nn.Flatten(), [x, x[..., 0]], None, 4)


def test_one_budget() -> None:
    assert one_budget(min_agreement=0.9, target_macs=None) == Budget("min_agreement", 0.9)
