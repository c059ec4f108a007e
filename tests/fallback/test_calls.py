"""Parts of a network that PyTorch runs, called from machine code."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import haste_compiler
from haste_compiler import CompiledModule, HasteConfig, HasteError, UnsupportedOperatorError
from tests.passes.checking import Fn, assert_same
from tests.without_torch import NO_TORCH

Function = Callable[..., Any]


def compiled(function: Function, *inputs: Any, **parts: Any) -> CompiledModule:
    model = Fn(function, **parts).eval()
    return haste_compiler.compile(model, inputs, config=HasteConfig(enabled=False), cache=False, threads=1)


def left(made: CompiledModule) -> list[tuple[str, ...]]:
    """The operators of each region that PyTorch runs."""
    return [fallback.operators for fallback in made.explain().fallbacks]


def image() -> Tensor:
    return torch.randn(2, 6, 8, 10)


def test_neighbours_are_called_together() -> None:
    def function(m: Any, x: Tensor) -> Any:
        values, places = m.conv(x).sort(1)
        return values.cumsum(2), places, values.relu()

    x, conv = image(), nn.Conv2d(6, 6, 3)
    made = compiled(function, x, conv=conv)
    assert left(made) == [("aten.sort.default",), ("aten.cumsum.default",)]
    assert_same(made(x), Fn(function, conv=conv)(x))


def test_parts_that_are_asked_for_later_belong_to_the_same_call() -> None:
    """One part is read by a kernel before the next one's turn comes."""

    def function(m: Any, x: Tensor) -> Any:
        first, second = torch.unbind(x.cumsum(1).sort(2)[0], 0)
        low, high = torch.aminmax(x, dim=3)
        return m.conv(first[None]), second, high - m.conv(low[None, :, :, None].reshape(1, 12, 8, 1)[:, :6]).sum()

    x, conv = image(), nn.Conv2d(6, 6, 3, padding=1)
    assert_same(compiled(function, x, conv=conv)(x), Fn(function, conv=conv)(x))


def test_what_is_a_view_of_an_input_gets_memory_of_its_own() -> None:
    def function(m: Any, x: Tensor) -> Any:
        return torch.as_strided(x, (3, 5), (7, 2), 1), x.movedim(0, -1), x.roll(0)

    x = image()
    made = compiled(function, x)
    found, kept = made(x), [each.clone() for each in Fn(function)(x)]
    x.zero_()
    assert_same(list(found), kept, 0)


def test_maps_stay_in_channels_last_where_that_changes_nothing() -> None:
    def function(m: Any, x: Tensor) -> Any:
        return m.conv(F.interpolate(m.conv(x), size=(9, 7), mode="bicubic"))

    x, conv = image(), nn.Conv2d(6, 6, 3)
    made = compiled(function, x, conv=conv)
    assert left(made) == [("aten.upsample_bicubic2d.vec",)]
    assert_same(made(x), Fn(function, conv=conv)(x))


def test_errors_are_those_of_pytorch() -> None:
    def function(m: Any, x: Tensor, k: Tensor) -> Any:
        return m.conv(x) * m.table(k)[:, :, None, None]

    x, parts = image(), {"conv": nn.Conv2d(6, 8, 3), "table": nn.Embedding(10, 8)}
    made = compiled(function, x, torch.tensor([3, 4]), **parts)
    for wrong in (10, 10**9, -11):
        with pytest.raises(IndexError, match="out of range"):
            made(x, torch.tensor([wrong, 0]))
    assert_same(made(x, torch.tensor([9, 0])), Fn(function, **parts)(x, torch.tensor([9, 0])))


def test_branches_are_taken_by_values() -> None:
    def function(m: Any, x: Tensor) -> Any:
        return torch.cond(m.conv(x).sum() > 0, lambda t: t.sin(), lambda t: t.cos() + 1, (x,))

    conv = nn.Conv2d(6, 6, 3)
    made = compiled(function, image(), conv=conv)
    for sign in (1.0, -1.0):
        x = sign * conv.weight[:1].repeat(1, 1, 3, 4)[:, :, :8, :10].expand(2, -1, -1, -1).contiguous()
        assert_same(made(x), Fn(function, conv=conv)(x))


def test_calls_from_several_threads() -> None:
    def function(m: Any, x: Tensor) -> Any:
        return m.conv(x).cumsum(1).relu().cumsum(2)

    conv, images = nn.Conv2d(6, 6, 3), [image() for _ in range(4)]
    made, other = compiled(function, images[0], conv=conv), compiled(function, images[0].repeat(2, 1, 1, 1), conv=conv)
    failures: list[BaseException] = []

    def work(x: Tensor) -> None:
        try:
            for _ in range(20):
                assert_same(made(x), Fn(function, conv=conv)(x))
                assert_same(other(torch.cat((x, x))), Fn(function, conv=conv)(torch.cat((x, x))))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(x,)) for x in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_callers_autocast_changes_nothing() -> None:
    def function(m: Any, x: Tensor) -> Any:
        return F.conv1d(m.conv(x).flatten(2), m.filter)

    x, parts = image(), {"conv": nn.Conv2d(6, 6, 3), "filter": torch.randn(4, 6, 3)}
    made = compiled(function, x, **parts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = made(x)
    assert found.dtype == torch.float32
    assert_same(found, Fn(function, **parts)(x))


def test_every_batch() -> None:
    """Sizes that depend on the batch are computed where they are needed."""

    def function(m: Any, x: Tensor) -> Any:
        y = m.conv(x)
        gram = y.flatten(1) @ y.flatten(1).t()
        return gram, y.roll(1, 2).reshape(x.shape[0] * 2, -1), y.cumsum(1) / x.shape[0]

    conv = nn.Conv2d(6, 6, 3)
    model = Fn(function, conv=conv).eval()
    made = haste_compiler.compile(model, (image(),), config=HasteConfig(enabled=False), dynamic=True, threads=1)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 6, 8, 10)
        assert_same(made(x), model(x), 1e-4)


def test_without_fallback_the_operator_is_named() -> None:
    x, conv = image(), nn.Conv2d(6, 6, 3)
    model = Fn(lambda m, x: m.conv(x).cumsum(1), conv=conv).eval()
    with pytest.raises(UnsupportedOperatorError, match=r"aten.cumsum.default .*fallback is off"):
        haste_compiler.compile(model, (x,), fallback=False)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, nn.Module]:
    conv = nn.Conv2d(6, 6, 3)
    model = Fn(lambda m, x: m.conv(x).cumsum(1).relu(), conv=conv).eval()
    made = haste_compiler.compile(model, (image(),), config=HasteConfig(enabled=False), threads=1)
    with pytest.warns(UserWarning, match=r"needs PyTorch to run, which computes aten.cumsum.default"):
        made.save(tmp_path / "net.haste")
    return tmp_path / "net.haste", model


def test_a_saved_network_calls_pytorch(saved: tuple[Path, nn.Module]) -> None:
    path, model = saved
    loaded, x = haste_compiler.load(path), image()
    assert_same(loaded(x), model(x))
    assert_same(torch.from_numpy(loaded(x.numpy())), model(x))
    (fallback,) = loaded.explain().fallbacks
    assert fallback.operators == ("aten.cumsum.default",) and fallback.share is not None and 0 < fallback.share < 1
    assert "left to PyTorch" in str(loaded.explain())
    assert loaded.explain().to_dict()["fallbacks"][0]["layer"] == fallback.layer


def test_a_saved_network_says_that_pytorch_is_missing(saved: tuple[Path, nn.Module]) -> None:
    code = f"""{NO_TORCH}
import haste_compiler
try:
    haste_compiler.load({str(saved[0])!r})
except haste_compiler.HasteError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "the network needs torch, which computes aten.cumsum.default in it" in ran.stdout, ran.stderr


def test_explaining_a_network_that_zeros_are_no_input_of() -> None:
    def function(m: Any, x: Tensor, k: Tensor) -> Any:
        return m.conv(x) * m.table(k - 1)[:, :, None, None]

    parts = {"conv": nn.Conv2d(6, 8, 3), "table": nn.Embedding(10, 8)}
    made = compiled(function, image(), torch.tensor([3, 4]), **parts)
    (found,) = made.explain().fallbacks
    assert found.share is None and "aten.embedding.default" in str(found) and "%" not in str(found)


def test_complex_numbers_are_refused_by_name() -> None:
    with pytest.raises(HasteError, match="no complex numbers"):
        compiled(lambda m, x: torch.fft.rfft2(x), image())
    x = image()
    assert_same(compiled(lambda m, x: torch.fft.rfft2(x).abs(), x)(x), torch.fft.rfft2(x).abs())
