"""The demonstration: what it measures, and that a network that computes something else stops it."""

import pytest
import torch
from rich.console import Console

pytest.importorskip("sklearn", reason="scikit-learn, which carries the digits, is not installed")

import haste_compiler
from haste_compiler.demo import comparison, held_out_digits, load_network
from haste_compiler.errors import ValidationError


def test_every_way_to_compile_is_held_against_pytorch() -> None:
    images, labels = held_out_digits()
    console = Console(record=True, width=200)
    rows = comparison.compare(load_network(), list(images.split(20)), labels, console)
    assert [row.name for row in rows] == ["PyTorch", *comparison.CONFIGURATIONS]
    assert all(row.right > 0.97 and row.agreement > 0.97 and 0 < row.best <= row.median for row in rows)
    plain, dense, int8, merged = rows
    assert plain.agreement == dense.agreement == 1.0 and dense.saved == int8.saved == 0.0 and merged.saved > 0.05
    assert int8.size < dense.size
    text = comparison.table(rows, 20)
    assert "in 3 ways" in console.export_text() and "compiled, int8" in text and "20 images" in text


def test_a_network_that_computes_something_else_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(x), 10)

    monkeypatch.setattr(haste_compiler, "compile", lambda *_, **__: Other())
    images, labels = held_out_digits()
    with pytest.raises(ValidationError, match=r"compiled, float32: .* of the images in the original's class, not 97%"):
        comparison.compare(load_network(), list(images.split(20)), labels, Console(quiet=True))
