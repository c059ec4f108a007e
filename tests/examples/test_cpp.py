"""The C++ example computes the same as Python; cross-compiled, it runs a whole network as another machine would."""

import os
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tvm_ffi
from torch import Tensor, nn

import haste_compiler
from haste_compiler import CompiledModule, HasteConfig, QuantizedConfig
from haste_compiler.demo import load_network
from tests.codegen.cross import AARCH64, COMPILER, EMULATOR, needs_emulator
from tests.methods.haste.networks import redundant_images
from tests.passes.checking import Fn

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cpp"
PACKAGES = Path(tvm_ffi.__file__).parents[1]
FOREIGN_PACKAGES = Path(os.environ.get("HASTE_AARCH64_PACKAGES", ROOT / "build" / "aarch64"))
"""TVM's wheels for AArch64, unpacked by ``make cross``."""

CONFIG = HasteConfig(cost_model=False, num_hyperplanes=8)

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make not found")


def built(folder: Path, compiler: str, packages: Path) -> str:
    """The example, built by its Makefile."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} not found")
    program = folder / "haste_run"
    command = ["make", f"CXX={compiler} -Werror", f"PACKAGES={packages}", f"OUT={program}"]
    done = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return str(program)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return built(tmp_path_factory.mktemp("native"), "g++", PACKAGES)


def unpacked(compiled: CompiledModule, folder: Path) -> Path:
    compiled.save(folder / "net.haste")
    with zipfile.ZipFile(folder / "net.haste") as archive:
        archive.extractall(folder / "net")
    return folder / "net"


def run(command: Sequence[str], net: Path, inputs: Sequence[Tensor], signature: int = 0) -> np.ndarray[Any, Any]:
    """The float32 values of all outputs, one after another."""
    given, made = net / "inputs", net / "outputs"
    given.write_bytes(b"".join(x.contiguous().numpy().tobytes() for x in inputs))
    done = subprocess.run(
        [*command, str(net), str(given), str(made), str(signature)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(" ms")
    return np.fromfile(made, np.float32)


def images(count: int) -> Tensor:
    return redundant_images(count, 3, 32, 32, seed=count)


@pytest.fixture(scope="module")
def compiled() -> CompiledModule:
    """A dense and two HASTE convolutions, compiled for one image and for three."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 10, 3))
    made = haste_compiler.compile(model.eval(), (images(1),), config=CONFIG, threads=2)
    made.prepare(images(3))
    return made


def test_same_bits_as_python(program: str, compiled: CompiledModule, tmp_path: Path) -> None:
    # Whatever it is steered to is in the file, an infinite tolerance too.
    compiled.tolerance = {"2": None, "4": 0.1}
    net = unpacked(compiled, tmp_path)
    for signature, count in enumerate((1, 3)):
        y = run([program], net, (images(count),), signature)
        np.testing.assert_array_equal(y, compiled(images(count)).numpy().ravel())


class Several(nn.Module):
    """Takes two images and a mask; one output is the first input, one holds no HASTE layer's values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(12, 20, 3), nn.Conv2d(3, 5, 1)

    def forward(self, x: Tensor, mask: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x, torch.relu(self.conv(x)) * mask.float(), self.other(y)


def test_several_inputs_and_outputs(program: str, tmp_path: Path) -> None:
    x, y = redundant_images(2, 12, 14, 10), redundant_images(1, 3, 5, 5)
    inputs = (x, torch.tensor([True, False]).view(2, 1, 1, 1), y)
    compiled = haste_compiler.compile(Several().eval(), inputs, config=CONFIG, threads=1)
    expected = np.concatenate([output.numpy().ravel() for output in compiled(*inputs)])
    np.testing.assert_array_equal(run([program], unpacked(compiled, tmp_path), inputs), expected)


def test_ternary_weights_are_unpacked(program: str, tmp_path: Path) -> None:
    layer, x = nn.Conv2d(12, 21, 1).eval(), torch.randn(1, 12, 5, 5)
    layer.weight.data = 0.3 * torch.randint(-1, 2, layer.weight.shape)
    compiled = haste_compiler.compile(layer, (x,), config=QuantizedConfig(cost_model=False), threads=1)
    assert compiled.layers[0].reason == "int8 by ternary weights"
    np.testing.assert_array_equal(run([program], unpacked(compiled, tmp_path), (x,)), compiled(x).numpy().ravel())


def test_a_network_that_needs_pytorch_is_refused(program: str, tmp_path: Path) -> None:
    model, x = Fn(lambda m, x: m.conv(x).cumsum(1), conv=nn.Conv2d(3, 8, 3)).eval(), torch.randn(1, 3, 8, 8)
    made = haste_compiler.compile(model, (x,), config=CONFIG, threads=1)
    with pytest.warns(UserWarning, match="needs PyTorch"):
        net = unpacked(made, tmp_path)
    (net / "inputs").write_bytes(x.numpy().tobytes())
    command = [program, str(net), str(net / "inputs"), str(net / "outputs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "run by PyTorch, which isn't here" in done.stderr


def test_inputs_of_another_size_are_refused(program: str, compiled: CompiledModule, tmp_path: Path) -> None:
    net = unpacked(compiled, tmp_path)
    for values in (3071, 3073):
        (net / "inputs").write_bytes(bytes(4 * values))
        command = [program, str(net), str(net / "inputs"), str(net / "outputs")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "doesn't hold the network's inputs" in done.stderr
    done = subprocess.run([program, str(tmp_path), "in", "out"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "manifest.json can't be read" in done.stderr


@needs_emulator
@pytest.mark.skipif(
    not (FOREIGN_PACKAGES / "tvm").is_dir(), reason="no TVM for AArch64 in build/aarch64: run `make cross`"
)
def test_a_whole_network_on_aarch64(tmp_path: Path) -> None:
    program = built(tmp_path, COMPILER, FOREIGN_PACKAGES)
    model, x = load_network(), images(2)[:, :1].contiguous()
    foreign = haste_compiler.compile(model, (x,), target=AARCH64, config=CONFIG, threads=2)
    here = haste_compiler.compile(model, (x,), config=CONFIG, threads=2)
    y = torch.from_numpy(run([*EMULATOR, program], unpacked(foreign, tmp_path), (x,))).view(2, -1)
    # Sums of other order may decide a near tie otherwise: far less than what merging changes.
    assert (y - here(x)).norm() < 1e-3 * here(x).norm()
    assert (y - model(x)).norm() > 1e-3 * here(x).norm()
