"""On a real card: the same networks as under the emulator, inputs and outputs on the device."""

from pathlib import Path

import pytest
import torch

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.haste.swap import swap_convs
from tests.codegen.cuda.test_network import FORCED, images, network

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card, and PyTorch finds none")


@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-5), ("tf32", 3e-3), ("bf16", 3e-2)])
def test_dense_network(precision: str, error: float) -> None:
    model, x = network(), images()
    compiled = haste_compiler.compile(
        model, (x,), target="cuda", config=HasteConfig(enabled=False), precision=precision
    )
    y = compiled(x.cuda())[0]
    assert y.device.type == "cuda"
    wanted = model(x)[0]
    assert (y.cpu() - wanted).norm() <= error * wanted.norm()
    assert torch.equal(compiled(x)[0], y.cpu())


def test_haste_network_against_the_oracle(tmp_path: Path) -> None:
    model, x = network(), images()
    compiled = haste_compiler.compile(model, (x,), target="cuda", config=FORCED, precision="fp32")
    oracle = swap_convs(model, FORCED.replace(patch_size=64))(x)[0]
    torch.testing.assert_close(compiled(x)[0], oracle, rtol=1e-3, atol=1e-3)
    compiled.save(tmp_path / "net.haste")
    loaded = haste_compiler.load(tmp_path / "net.haste")
    assert torch.equal(loaded(x.cuda())[0].cpu(), compiled(x)[0])


def test_calls_follow_pytorchs_stream() -> None:
    model, x = network(), images().cuda()
    compiled = haste_compiler.compile(model.cuda(), (x,), target="cuda", config=HasteConfig(enabled=False))
    wanted = compiled(x + 1)[0]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # The input is still being made when the network is launched.
        late = x.clone()
        torch.cuda._sleep(10_000_000)
        late += 1
        y = compiled(late)[0]
    stream.synchronize()
    assert torch.equal(y, wanted)
