import json

import pytest
import torch
from torch import Tensor

from haste_compiler.validation import ValidationReport, validate
from tests.validation.standin import Fake, Function, SmallNet, Timed


@pytest.fixture
def report() -> ValidationReport:
    model = SmallNet().eval()
    images = torch.randn(4, 3, 16, 16)
    return validate(model, Timed(model), images, labels=model(images).argmax(1), rounds=2)


def test_dictionary_and_json_hold_everything(report: ValidationReport) -> None:
    plain = report.to_dict()
    assert json.loads(report.to_json()) == plain == json.loads(report.to_json(indent=None))
    assert plain["mac_reduction"] == report.mac_reduction == plain["macs"]["reduction"]
    merged = plain["layers"][1]
    overheads = ("hashing", "centring", "norms", "coefficients", "merge_inputs", "merge_filters", "means")
    assert merged["macs"]["spent"] == sum(merged["macs"][part] for part in (*overheads, "convolution"))
    assert set(merged["channels"]) == {"of", "kept", "merged", "skipped"}
    energy = plain["energy"]
    assert energy["float16"] < energy["float32"] and energy["compiled"] == pytest.approx(
        energy["float32"] * plain["macs"]["spent"] / plain["macs"]["dense"]
    )
    assert plain["accuracy"]["original"] == 1 and plain["times"]["rounds"] == 2
    assert plain["outputs"][0]["name"] == "output" and isinstance(plain["warnings"], list)


def test_json_without_numbers_that_json_lacks() -> None:
    report = validate(Function(lambda x: x.relu()), Fake(lambda x: x * torch.nan), torch.randn(1, 2, 3, 3), time=False)
    assert report.max_rel_error == float("inf")
    assert float(json.loads(report.to_json())["max_rel_error"]) == float("inf")
    assert "inf" in str(report)


def test_text(report: ValidationReport) -> None:
    text = str(report)
    assert "\x1b" not in text and text == text.rstrip()
    order = [text.index(heading) for heading in ("Validation on 4 images in 1 call", "Outputs", "Layers")]
    assert order == sorted(order)
    for said in ("relative error", "net reduction", "speedup over dense", "accuracy", "hashing", "ms"):
        assert said in text
    lines = text[text.index("Layers") :].splitlines()
    for layer in report.layers:
        assert len([line for line in lines if line.split()[:1] == [layer.name]]) == 1


def test_long_names_and_tables_without_times(report: ValidationReport) -> None:
    name = "features." + "denseblock.denselayer." * 6 + "conv"

    class Deep(torch.nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {name: x}

    text = str(validate(Deep(), Fake(lambda x: {name: x}), torch.randn(1, 2), time=False))
    assert f"output['{name}']" in text and "speedup" not in text


def test_report_cannot_be_changed(report: ValidationReport) -> None:
    with pytest.raises(AttributeError):
        report.agreement = 1.0  # type: ignore[misc]
