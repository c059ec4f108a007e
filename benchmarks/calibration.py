"""How many images int8 peers are calibrated on, and which."""

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import Case

USUAL = 300
"""Images that people calibrate with: NNCF's default."""

MOST_MACS = 1.25e12
"""Most multiply-adds of all calibrating images: half a minute in float32, and several times that for statistics."""


def macs_of_image(case: Case) -> float:
    """Multiply-adds of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        case.model(case.inputs[0])
    return counter.get_total_flops() / 2 / len(case.inputs[0])


def calls(case: Case) -> list[Tensor]:
    """Calls of the case's shape for the calibration: its own inputs, where it has no other images."""
    if case.calibrating is None:
        return case.inputs
    batch = len(case.inputs[0])
    images = case.calibrating.draw(_count(macs_of_image(case), batch))
    return [call.contiguous() for call in images.split(batch)]


def describe(case: Case) -> str:
    """Which calls, and why they are few, in a line."""
    if case.calibrating is None:
        return "its own inputs, for want of others"
    macs, batch = macs_of_image(case), len(case.inputs[0])
    words = f"{_count(macs, batch)} {case.calibrating.kind}"
    if macs * USUAL > MOST_MACS:
        words += f", not {USUAL}, which take minutes at {macs / 1e9:.1f} billion multiply-adds each"
    return words


def _count(macs: float, batch: int) -> int:
    """Images, whole calls, at least one."""
    return max(1, min(USUAL, int(MOST_MACS / macs)) // batch) * batch
