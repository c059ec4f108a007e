"""Energy and storage of whole networks, PROM's published figures among them."""

import json

import pytest
import torch
from torch import nn

from haste_compiler import estimate_energy
from haste_compiler.errors import InputError
from tests import zoo


def _mobilenet(width: float) -> nn.Module:
    zoo.missing_torchvision()
    from torchvision.models import mobilenet_v2

    return mobilenet_v2(width_mult=width).eval()


def test_published_figures_of_prom() -> None:
    """23.9 and 2.7 times less than float16 (arXiv 2505.03254) come out with width 1.25 against width 1.0, at 7 nm."""
    x = (torch.zeros(1, 3, 224, 224),)
    base, wide = estimate_energy(_mobilenet(1.0), x), estimate_energy(_mobilenet(1.25), x)
    half = base.of("float16")
    assert round(half.microjoules / wide.of("prom").microjoules, 1) == 23.7
    assert round(half.megabytes / wide.of("prom").megabytes, 2) == 2.70
    # Of one width, more is saved than was published.
    assert round(half.microjoules / base.of("prom").microjoules, 1) == 34.1
    assert round(half.megabytes / base.of("prom").megabytes, 1) == 3.6


def test_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, bias=False)).eval()
    found = estimate_energy(model, (torch.zeros(2, 4, 5, 5),), process="45nm", accumulation="wide")
    pointwise, rest = 2 * 25 * 32, 2 * 9 * 8 * 72
    assert found.macs["pointwise"] == pointwise and found.macs["convolution"] == rest
    assert found.of("prom").microjoules == pytest.approx((pointwise * 0.1 + rest * 0.3) / 1e6)
    assert found.of("float32").microjoules == pytest.approx((pointwise + rest) * 4.6 / 1e6)
    assert found.of("prom").megabytes == pytest.approx((32 * 2 + 576 * 8 + 8 * 16) / 8e6)
    assert found.of("float32").megabytes == pytest.approx((32 + 576 + 8) * 32 / 8e6)


def test_prints_and_is_json() -> None:
    found = estimate_energy(nn.Conv2d(4, 8, 1), (torch.zeros(1, 4, 5, 5),))
    assert "pointwise" in str(found) and "prom" in str(found) and "depthwise" not in str(found)
    assert json.loads(found.to_json())["costs"][3]["scheme"] == "prom"


def test_without_products_nothing_is_divided_by_zero() -> None:
    assert "float16" in str(estimate_energy(nn.ReLU(), (torch.zeros(1, 4),)))


def test_an_unknown_process_is_refused() -> None:
    with pytest.raises(InputError, match="process"):
        estimate_energy(nn.Conv2d(1, 1, 1), (torch.zeros(1, 1, 2, 2),), process="5nm")  # type: ignore[arg-type]
