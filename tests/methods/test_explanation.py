"""How the choice for every convolution is told."""

import pytest

from haste_compiler.methods.explanation import Explanation, LayerChoice
from haste_compiler.methods.prediction import Estimate, Prediction


def read(times: str) -> str:
    return f"its input pixels are read {times} times each, less than min_reads=4"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


def test_reasons_that_differ_in_numbers_share_a_row() -> None:
    """A ResNet-50 had 85 lines of the same."""
    names = [f"layer{number}" for number in range(6)]
    reasons = [read("1"), "one input channel: nothing to merge", read("2.25"), read("0.25"), read("1"), "HASTE"]
    methods = [None] * 5 + ["haste"]
    layers = [LayerChoice(*each) for each in zip(names, methods, reasons, strict=True)]
    rows = [" ".join(line.split()) for line in str(Explanation(tuple(layers))).splitlines()[4:]]
    assert rows == [
        f"layer0 … layer4 (4 layers) dense {read('0.25 to 2.25')}",
        "layer1 dense one input channel: nothing to merge",
        "layer5 HASTE HASTE",
    ]


def test_predictions_and_few_layers_have_a_row_each() -> None:
    predicted = [LayerChoice(f"p{n}", None, f"predicted {n}.00 ms dense", 1.0, 1.0) for n in range(5)]
    few = [LayerChoice("a", None, read("1")), LayerChoice("b", None, read("2.25"))]
    text = str(Explanation((*predicted, *few)))
    assert all(layer.reason in text for layer in (*predicted, *few)) and "…" not in text


@pytest.mark.parametrize(
    ("seconds", "taken", "words"),
    [
        (0.7e-3, True, "predicted 1.00 ms dense, 0.70 ms HASTE at only 10% kept"),
        (0.8e-3, False, "0.80 ms HASTE at only 10% kept: 80% of the time, 75% at most is taken"),
        (0.7e-3, False, "at only 10% kept; with the layers that share its groups above 75% of the time"),
    ],
)
def test_the_rule_is_said_by_which_a_layer_stays_dense(seconds: float, taken: bool, words: str) -> None:
    """Dense where HASTE is predicted to be faster: one wonders why."""
    assert words in Prediction(1e-3, Estimate(seconds, 0.1e-3, 0.1)).described("HASTE", 0.75, taken)
