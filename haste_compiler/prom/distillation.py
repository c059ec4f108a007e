"""Training on what a teacher says beside the labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def distillation_loss(scores: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T² · KL(softmax(teacher / T) ‖ softmax(scores / T))``, a mean over images.

    Source: Hinton et al., arXiv 1503.02531, section 2.

    Args:
        scores: the student's, float32 (N, classes).
        teacher: the teacher's, of the same shape.
        temperature: T.
    """
    log = F.log_softmax(scores / temperature, 1)
    wanted = F.log_softmax(teacher / temperature, 1)
    return F.kl_div(log, wanted, reduction="batchmean", log_target=True) * temperature**2
