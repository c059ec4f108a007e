"""How large a mean may be of which a sample was seen, and when too few images were given."""

import pytest
import torch

from haste_compiler.errors import InputError
from haste_compiler.search.bound import check_enough, images_needed, upper_bound
from haste_compiler.search.budget import Budget


def test_of_zeros_and_ones_it_is_the_exact_bound() -> None:
    """As tables of the binomial distribution have it (Clopper and Pearson, one-sided, 90 %)."""
    assert upper_bound(torch.zeros(64), 0.9) == pytest.approx(1 - 0.1 ** (1 / 64), rel=1e-3)
    one_of_ten = torch.tensor([1.0] + [0.0] * 9)
    assert upper_bound(one_of_ten, 0.9) == pytest.approx(0.337, abs=0.004)
    assert upper_bound(torch.ones(3), 0.9) == pytest.approx(1)


@pytest.mark.parametrize("count", [6, 18, 75])
@pytest.mark.parametrize("part", [0.02, 0.2])
def test_it_holds_as_often_as_it_says(count: int, part: float) -> None:
    """Of rare values between 0 and 0.6; a normal distribution's bound held in 33 % of samples of 18."""
    draw = torch.Generator().manual_seed(0)
    samples = (torch.rand(100, count, generator=draw) < part) * 0.6 * torch.rand(100, count, generator=draw)
    assert sum(upper_bound(sample, 0.9) >= part * 0.3 for sample in samples) >= 90


@pytest.mark.parametrize("limit", [0.5, 0.1, 0.03, 0.0125, 1e-4, 1e-9])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.999])
def test_so_many_images_as_are_asked_for_would_do(limit: float, confidence: float) -> None:
    for budget in (Budget("max_accuracy_drop", limit), Budget("min_agreement", 1 - limit)):
        needed = images_needed(budget, confidence)
        check_enough(budget, confidence, needed)
        with pytest.raises(InputError, match=f"give {needed} images or more"):
            check_enough(budget, confidence, needed - 1)


def test_what_so_many_images_show_is_said() -> None:
    with pytest.raises(InputError, match=r"48 are held out, .* an agreement of 95\.3% with 90% confidence; give 86"):
        check_enough(Budget("min_agreement", 0.965), 0.9, 64)
    with pytest.raises(InputError, match="6 images are too few for max_output_error: allowed are 7 or more"):
        check_enough(Budget("max_output_error", 0.1), 0.9, 6)
    with pytest.raises(InputError, match="1 images are too few for target_macs: allowed are 2 or more"):
        check_enough(Budget("target_macs", 0.1), 0.9, 1)
