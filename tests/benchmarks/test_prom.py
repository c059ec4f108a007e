"""What is counted of a trained network, and its curves."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import prom
from haste_compiler.prom import convert, prepare
from haste_compiler.prom.data import Labelled, normalized
from haste_compiler.prom.train import FLOAT_WEIGHTS, LOG, WEIGHTS, Description

DIGITS = Description("digits", 1, 10, 0.25)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network = DIGITS.build().eval()
    converted = convert(prepare(network, (torch.randn(1, 1, 8, 8),)))
    for each, name in ((network, FLOAT_WEIGHTS), (converted, WEIGHTS)):
        save_file({key: value.contiguous() for key, value in each.state_dict().items()}, tmp_path / name)
    epochs = [{"epoch": 1, "accuracy": 0.1}, {"epoch": 2, "accuracy": 0.2}]
    description = {"network": "digits", "channels": 1, "classes": 10, "width": 0.25}
    (tmp_path / LOG).write_text(json.dumps({"network": description, "phases": {"float": epochs, "prom": epochs}}))
    return tmp_path


def test_every_network_is_counted_on_all_images(folder: Path) -> None:
    pixels = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    network = DIGITS.build().eval()
    labels = network(normalized(pixels)).argmax(1)
    rows = prom.table(folder, Labelled(pixels, labels, mirrored=False))
    assert len(rows) == 2 + len(prom.TERMS) + 3
    assert rows[0][2] == 1.0 and all(share * 5 % 1 == pytest.approx(0, abs=1e-5) for _, *both in rows for share in both)


def test_curves_of_several_folders_share_a_legend(folder: Path) -> None:
    prom.plot([folder, folder], folder / "curves.svg")
    text = (folder / "curves.svg").read_text()
    assert all(text.count(f"<!-- {title} -->") == 1 for title in ("float32", "ternary and 8 bits"))
