"""What a teacher adds to the loss."""

import pytest
import torch
from torch import nn

from haste_compiler.prom import distillation_loss


def test_a_student_that_says_what_the_teacher_says_loses_nothing() -> None:
    scores = torch.randn(5, 10)
    assert abs(float(distillation_loss(scores, scores + 3, 2.0))) < 1e-5


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@torch.enable_grad()
def test_gradient_is_that_of_the_paper(temperature: float) -> None:
    """Hinton et al., equation 2, times T² and over the images."""
    scores, teacher = torch.randn(5, 10, requires_grad=True), torch.randn(5, 10)
    distillation_loss(scores, teacher, temperature).backward()
    apart = nn.functional.softmax(scores / temperature, 1) - nn.functional.softmax(teacher / temperature, 1)
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, apart * temperature / 5)
