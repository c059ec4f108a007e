"""Whole networks compiled for a card and run emulated; what happens where there is no card."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import haste_compiler
from haste_compiler import ConfigError, HasteConfig, TargetError
from haste_compiler.codegen.cuda import target as cuda_target
from haste_compiler.codegen.cuda.build import source_of
from haste_compiler.codegen.cuda.precision import choose_precisions
from haste_compiler.codegen.target import parse_target
from haste_compiler.errors import UnsupportedOperatorError
from tests.codegen.cuda import emulator
from tests.methods.haste.networks import redundant_images

FORCED = HasteConfig(cost_model=False, num_hyperplanes=6)


@pytest.fixture
def emulated() -> Iterator[None]:
    emulator.require()
    yield


class Network(nn.Module):
    """A little of everything: a stem, a residual block, depthwise, shuffled and gated channels, TVM's own operators."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Conv2d(16, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.down = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.gate = nn.Linear(24, 24)
        self.end = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        x = torch.relu(self.block(x) + x)
        x = torch.max_pool2d(torch.nn.functional.silu(self.depthwise(x)), 3, 2, 1)
        x = self.down(x)
        gated = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        both = torch.cat([gated, x.softmax(1)], 1)
        return self.end(both[:, ::2].mean((2, 3))), x > 0


def network() -> Network:
    torch.manual_seed(0)
    model = Network().eval()
    model(torch.randn(4, 3, 16, 16))
    return model


def images() -> Tensor:
    return redundant_images(2, 3, 18, 16)


def test_the_dense_network_computes_what_pytorch_does(emulated: None) -> None:
    model, x = network(), images()
    compiled = haste_compiler.compile(model, (x,), target="cuda", config=HasteConfig(enabled=False), precision="fp32")
    for mine, wanted in zip(compiled(x), model(x), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-5)
    assert set(compiled.profile(x)) >= {"stem.0", "block", "depthwise", "down", "gate", "end"}


def test_haste_on_a_card_is_haste_on_a_cpu_with_the_same_patches(emulated: None) -> None:
    model, x = network(), images()
    card = haste_compiler.compile(model, (x,), target="cuda", config=FORCED, precision="fp32")
    here = haste_compiler.compile(model, (x,), target="llvm", config=FORCED.replace(patch_size=64))
    for tolerance in (0.4, 0.0, 1.5):
        card.tolerance = here.tolerance = tolerance
        torch.testing.assert_close(card(x)[0], here(x)[0], rtol=1e-4, atol=1e-4)
        mine, wanted = card.stats(x), here.stats(x)
        assert list(mine) == list(wanted) == ["block"]
        assert (mine["block"].counts == wanted["block"].counts).all()
        assert mine["block"].counts.shape[:3] == (2, 1, 1)


def test_without_being_told_a_small_network_stays_dense() -> None:
    compiled = haste_compiler.compile(network(), (images(),), target="cuda")
    assert not any(layer.eligible for layer in compiled.layers)
    assert "predicted" in dict((layer.name, layer.reason) for layer in compiled.layers)["block"]


@pytest.mark.parametrize(
    ("precision", "least", "most"), [("tf32", 1e-6, 3e-3), ("bf16", 1e-4, 3e-2), ("fp32", 0, 1e-6)]
)
def test_precision_is_the_users_choice(emulated: None, precision: str, least: float, most: float) -> None:
    model, x = network(), images()
    compiled = haste_compiler.compile(
        model, (x,), target="cuda", config=HasteConfig(enabled=False), precision=precision
    )
    wanted = model(x)[0]
    error = (compiled(x)[0] - wanted).norm() / wanted.norm()
    assert least <= error < most


@pytest.fixture
def flags() -> Iterator[None]:
    """Gives PyTorch's flags for TF32 their usual values afterwards; monkeypatch can't set them."""
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False


def test_precision_follows_pytorch(flags: None) -> None:
    x = torch.randn(2, 8, 4, 4)
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 8)).eval()
    for convolution, linear in ((False, True), (True, False)):
        torch.backends.cudnn.allow_tf32 = convolution
        torch.backends.cuda.matmul.allow_tf32 = linear
        # Code for a card that isn't here stays in memory, where its source can be read.
        compiled = haste_compiler.compile(model, (x,), target="cuda -arch=sm_120", config=HasteConfig(enabled=False))
        (made,) = compiled._made.values()
        _, *kernels = re.split(r'extern "C" __global__', source_of(made.executable.code.module.mod))
        on_tensor_cores = {"linear" in kernel.partition("{")[0] for kernel in kernels if "haste_mma_tf32(" in kernel}
        assert on_tensor_cores == {linear}
    with pytest.raises(ConfigError, match="precision is 'fp64': allowed are 'fp32', 'tf32', 'bf16'"):
        haste_compiler.compile(network(), (x,), target="cuda", precision="fp64")
    with pytest.raises(ConfigError, match="allowed are 'fp32', 'int8' and None"):
        haste_compiler.compile(network(), (x,), target="llvm", precision="tf32")


def test_the_flags_that_replaced_allow_tf32_are_followed(flags: None) -> None:
    for setting in ("ieee", "tf32"):
        torch.backends.cudnn.conv.fp32_precision = setting  # type: ignore[attr-defined]
        assert choose_precisions(None).convolution == setting.replace("ieee", "fp32")


def test_too_many_channels_to_group_is_said() -> None:
    model = nn.Conv2d(2052, 4, 1).eval()
    with pytest.raises(UnsupportedOperatorError, match="2052 input channels a group: a card groups up to 2048"):
        haste_compiler.compile(model, (torch.randn(1, 2052, 2, 2),), target="cuda", config=HasteConfig.exact())


def test_saved_and_loaded(emulated: None, tmp_path: Path) -> None:
    model, x = network(), images()
    compiled = haste_compiler.compile(model, (x,), target="cuda", config=FORCED, precision="fp32")
    compiled.save(tmp_path / "net.haste")
    loaded = haste_compiler.load(tmp_path / "net.haste")
    assert str(loaded.target.kind.name) == "cuda"
    assert torch.equal(loaded(x)[0], compiled(x)[0])
    assert (loaded(x.numpy())[0] == compiled(x)[0].numpy()).all()


_WITHOUT_A_CARD = """
import pathlib, sys
import torch, haste_compiler
from haste_compiler.errors import ArtifactTargetError, TargetError
from haste_compiler.codegen.cuda.target import has_card
if has_card():
    sys.exit(7)
x = torch.randn(1, 3, 8, 8)
compiled = haste_compiler.compile(torch.nn.Conv2d(3, 4, 3).eval(), (x,), target="cuda -arch=sm_90")
compiled.save(sys.argv[1])
assert pathlib.Path(sys.argv[1]).stat().st_size > 1000
for call in (lambda: compiled(x), lambda: haste_compiler.load(sys.argv[1])):
    try:
        call()
    except TargetError as error:
        print(type(error).__name__, error)
"""


def test_without_a_card_it_is_compiled_and_saved_but_not_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WITHOUT_A_CARD, str(tmp_path / "net.haste")]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    if ran.returncode == 7:
        pytest.skip("this machine has a card")
    assert ran.returncode == 0, ran.stderr
    with zipfile.ZipFile(tmp_path / "net.haste") as stored:
        compiled = "code/0.fatbin" in stored.namelist()
    assert compiled is (shutil.which("nvcc") is not None)
    first, second = ran.stdout.splitlines()
    assert first == "TargetError code for sm_90 can't run here: this machine has no CUDA card that TVM can use"
    assert (
        second.startswith("ArtifactTargetError") and "was compiled for sm_90: this machine has no CUDA card" in second
    )


def test_tilings_are_not_measured_on_a_card(emulated: None) -> None:
    with pytest.raises(TargetError, match="tune: only the tilings of a CPU"):
        haste_compiler.compile(network(), (images(),), target="cuda", tune=True)


def test_target_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_target, "has_card", lambda: False)
    assert str(parse_target("cuda").attrs["arch"]) == "sm_80"
    assert str(parse_target("cuda -arch=sm_90a").attrs["arch"]) == "sm_90a"
    assert parse_target({"kind": "cuda", "arch": "sm_90"}).host is not None
    with pytest.raises(TargetError, match=r"sm_75.*need sm_80 or later"):
        parse_target("cuda -arch=sm_75")
    with pytest.raises(TargetError, match="arch is 'hopper': write it as in"):
        parse_target("cuda -arch=hopper")
    monkeypatch.setattr(cuda_target, "has_card", lambda: True)
    monkeypatch.setattr(cuda_target, "card_version", lambda: 90)
    assert str(parse_target("cuda").attrs["arch"]) == "sm_90"
    assert cuda_target.missing_card("sm_80") == []
    assert cuda_target.missing_card("sm_100") == ["card of sm_100 (its card is sm_90)"]
