"""What is said of outputs, and when that keeps a budget."""

import math

import pytest
import torch
from torch import Tensor, nn

from haste_compiler.errors import InputError
from haste_compiler.search.budget import Budget, one_budget
from haste_compiler.search.images import Images, read_rows
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


def test_errors_are_bounded_by_what_one_image_more_may_do() -> None:
    original = torch.ones(50, 4, dtype=torch.float64)
    found = original + 0.1 * torch.rand(50, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    few, many = (Judge(images_of(original[:n]), 0.9, 1.0).judge([found[:n]]) for n in (8, 50))
    assert many.output_error < many.bounds[0] < few.bounds[0] < 0.2
    surer = Judge(images_of(original), 0.99, 1.0).judge([found])
    assert surer.bounds[0] > many.bounds[0] and not surer.keeps(Budget("max_output_error", many.bounds[0]))


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
    x = torch.arange(18.0).view(18, 1, 1, 1)
    read = read_rows([x[:7], x[7:]], None).answered(nn.Flatten(), 64)
    assert [len(call[0]) for call in read.calls] == [4, 4, 4, 4, 4]
    assert torch.equal(read.outputs[0], x.view(18, 1).double())
    assert read.part(4, 5).outputs[0].flatten().tolist() == [16, 17]
    with pytest.raises(InputError, match="different shapes"):
        read_rows([x, x[..., 0]], None)


@pytest.mark.parametrize("count", [2, 3, 4, 24, 64, 65, 100, 255, 450, 512, 2000])
@pytest.mark.parametrize("most", [1, 7, 64, 500])
def test_no_image_chooses_and_judges(count: int, most: int) -> None:
    x = torch.arange(float(count)).view(count, 1)
    tried, held_out = read_rows(x, None).answered(nn.Identity(), most).divided()
    chosen, judged = (part.outputs[0].flatten().tolist() for part in (tried, held_out))
    assert chosen + judged == list(range(count)) and judged
    assert len(chosen) == tried.count <= max(1, min(count // 4, 128)) and len(judged) == held_out.count
    assert all(len(call[0]) == tried.size <= most for call in (*tried.calls, *held_out.calls))


def test_a_network_that_names_one_class_is_warned_about() -> None:
    always = torch.zeros(6, 3, dtype=torch.float64)
    always[:, 0] = torch.arange(6.0)
    assert images_of(always).warnings() == [
        "the original predicts class 0 for all 6 images, so agreement says little",
        "for 1 of 6 images the original's scores are all equal, and its prediction means nothing",
    ]
    assert images_of(scores(0)).warnings() == []


def test_one_budget() -> None:
    assert one_budget(min_agreement=0.9, target_macs=None) == Budget("min_agreement", 0.9)
