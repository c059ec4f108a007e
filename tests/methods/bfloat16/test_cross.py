"""A whole network of bfloat16 on AArch64, with its instruction, run by an emulator."""

from pathlib import Path

import pytest
import torch

import haste_compiler
from haste_compiler.graph.capture import capture
from haste_compiler.methods.bfloat16.reference.rounding import rounded
from haste_compiler.methods.pipeline import run_passes
from tests.codegen.cross import COMPILER, EMULATOR, needs_emulator
from tests.examples.test_cpp import FOREIGN_PACKAGES, built, run, unpacked
from tests.methods.bfloat16.cpu.test_cross import NEOVERSE
from tests.methods.bfloat16.test_rewrite import EVERYTHING
from tests.methods.quantized.test_rewrite import Mixed


@needs_emulator
@pytest.mark.skipif(
    not (FOREIGN_PACKAGES / "tvm").is_dir(), reason="no TVM for AArch64 in build/aarch64: run `make cross`"
)
def test_a_whole_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Mixed().eval(), rounded(torch.randn(2, 3, 32, 32))
    program = built(tmp_path, COMPILER, FOREIGN_PACKAGES)
    foreign = haste_compiler.compile(model, (x,), target=NEOVERSE, config=EVERYTHING, threads=2)
    y = torch.from_numpy(run([*EMULATOR, program], unpacked(foreign, tmp_path), (x,))).view(2, -1)
    expected = run_passes(capture(model, (x,)), EVERYTHING)(x)
    # A value in the middle of two may become the other one.
    assert (y - expected).norm() < 5e-4 * expected.norm()
    assert (y - model(x)).norm() > 5e-4 * expected.norm()
